"""The settings: every source, and one clear line for what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.errors import ConfigurationError
from mcp_server.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ISTHMUS_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_DATA_DIR", str(tmp_path / "data"))


def test_nothing_set_is_embedded_on_loopback(tmp_path: Path) -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.auth) == ("127.0.0.1", 8321, "on")
    assert settings.database_url is None
    assert settings.llm_url == ()
    assert settings.data_dir == tmp_path / "data"


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "isthmus.toml").write_text(
        'port = 1\nhost = "localhost"\nrate_limit = "5/minute"\n'
    )
    monkeypatch.setenv("ISTHMUS_PORT", "2")
    settings = load_settings()
    assert (settings.port, settings.host, settings.rate_limit) == (2, "localhost", "5/minute")
    assert load_settings(port=3).port == 3


def test_the_file_in_the_data_directory_is_read_if_none_is_here(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "isthmus.toml").write_text("port = 7\nauth = false\n")
    assert (load_settings().port, load_settings().auth) == (7, "off")
    (tmp_path / "isthmus.toml").write_text("port = 8\n")
    assert load_settings().port == 8
    other = tmp_path / "other.toml"
    other.write_text("port = 9\n")
    assert load_settings(other).port == 9


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_LLM_URL", "http://127.0.0.1:1/v1, scripted:")
    monkeypatch.setenv("ISTHMUS_PLUGINS", "a,b")
    settings = load_settings()
    assert settings.llm_url == ("http://127.0.0.1:1/v1", "scripted:")
    assert settings.plugins == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("given", "agent", "tool", "named"),
    [
        (None, 30, 30, 30),
        ("14", 14, 14, 14),
        ("0.5", 0.5, 0.5, 0.5),
        ("agent=90, tool=7", 90, 7, 7),
        ("3,agent=90,tool/import=1", 90, 3, 1),
        ("tool=7,tool/import=1", 30, 7, 1),
    ],
)
def test_ended_runs_are_kept_for_days_by_kind(
    monkeypatch: pytest.MonkeyPatch, given: str | None, agent: float, tool: float, named: float
) -> None:
    if given is not None:
        monkeypatch.setenv("ISTHMUS_RUN_TTL_DAYS", given)
    days = load_settings().run_ttl_days
    found = [days.seconds(kind) / 86_400 for kind in ("agent", "tool/other", "tool/import")]
    assert found == [agent, tool, named]


@pytest.mark.parametrize(
    "line", ["run_ttl_days = 7", "run_ttl_days = 7.0", 'run_ttl_days = ["7", "agent=7.5"]']
)
def test_a_file_gives_days_as_a_number_or_a_list(tmp_path: Path, line: str) -> None:
    (tmp_path / "isthmus.toml").write_text(line)
    assert load_settings().run_ttl_days.seconds("tool/x") == 7 * 86_400


def test_the_names_of_redacted_fields_are_compared_in_lower_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "password" in load_settings().run_redact
    monkeypatch.setenv("ISTHMUS_RUN_REDACT", "Card, iban")
    assert load_settings().run_redact == ("card", "iban")
    monkeypatch.setenv("ISTHMUS_RUN_REDACT", "off")
    assert load_settings().run_redact == ()


def test_redaction_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "isthmus.toml").write_text('run_redact = ["Card"]\n')
    assert load_settings().run_redact == ("card",)
    (tmp_path / "isthmus.toml").write_text("run_redact = []\n")
    assert load_settings().run_redact == ()


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("RUN_TTL_DAYS", "0", "ISTHMUS_RUN_TTL_DAYS: '0' is no number of days; give for example"),
        ("RUN_TTL_DAYS", "agent=", "ISTHMUS_RUN_TTL_DAYS: 'agent=' is no number of days"),
        ("RUN_TTL_DAYS", "=3", "ISTHMUS_RUN_TTL_DAYS: '=3' is no number of days"),
        ("RUN_TTL_DAYS", "agent=-1", "ISTHMUS_RUN_TTL_DAYS: 'agent=-1' is no number of days"),
        ("RUN_TTL_DAYS", "agent=inf", "ISTHMUS_RUN_TTL_DAYS: 'agent=inf' is no number of days"),
        ("RUN_TTL_DAYS", "agent=1e2", "ISTHMUS_RUN_TTL_DAYS: 'agent=1e2' is no number of days"),
        ("RUN_TTL_DAYS", "7,,", "ISTHMUS_RUN_TTL_DAYS: '' is no number of days"),
        ("RUN_TTL_DAYS", "99999", "ISTHMUS_RUN_TTL_DAYS: '99999' is no number of days"),
        ("RUN_CONCURRENCY", "0", "ISTHMUS_RUN_CONCURRENCY: "),
        ("RUN_CONCURRENCY", "many", "ISTHMUS_RUN_CONCURRENCY: "),
        ("PORT", "many", "ISTHMUS_PORT: "),
        ("SQL_TIMEOUT_SECONDS", "inf", "ISTHMUS_SQL_TIMEOUT_SECONDS: "),
        ("PORT", "70000", "ISTHMUS_PORT: "),
        ("AUTH", "maybe", "ISTHMUS_AUTH: "),
        ("API_KEY", "short", "ISTHMUS_API_KEY: give 16 or more visible ASCII characters"),
        ("API_KEY", "has a blank in it, long", "ISTHMUS_API_KEY: give 16 or more"),
        ("SECRET_KEY", "short", "ISTHMUS_SECRET_KEY: give 32 or more bytes"),
        (
            "RATE_LIMIT",
            "fast",
            "ISTHMUS_RATE_LIMIT: 'fast' is not a rate; give for example 120/minute",
        ),
        ("DATABASE_URL", "mysql://h/d", "ISTHMUS_DATABASE_URL: the URL is malformed"),
        ("DATABASE_URL", "postgresql:", "ISTHMUS_DATABASE_URL: the URL is malformed"),
        ("DATABASE_URL", "postgresql://h:x/d", "ISTHMUS_DATABASE_URL: the URL is malformed"),
        (
            "OBJECTS_URL",
            "http://h",
            "ISTHMUS_OBJECTS_URL: the URL is malformed; give for example s3://",
        ),
        ("LLM_URL", "ftp://h", "ISTHMUS_LLM_URL: 'ftp://h' is not http"),
        ("LLM_URL", "scripted", "ISTHMUS_LLM_URL: 'scripted' is not http"),
        ("NO_SUCH_THING", "1", "ISTHMUS_NO_SUCH_THING is not a setting"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_key(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(f"ISTHMUS_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line"), [("prot = 1", "'prot' is not a setting"), ("port = ", "not valid TOML")]
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "isthmus.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=line):
        load_settings()
    with pytest.raises(ConfigurationError, match="--config"):
        load_settings(tmp_path / "absent.toml")
