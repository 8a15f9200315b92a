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
    ("name", "value", "line"),
    [
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
