"""Upstreams and models of the operator's making, as the settings read them."""

from __future__ import annotations

import json
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


FILE = """
[upstreams.east]
url = "https://api.example.com/v1"
api_key = "sk-secret-of-east"
concurrency = 4
refuse_fields = ["store"]
serves = ["speech"]

[models."team/fast"]
targets = [{ upstream = "east", model = "large", weight = 2.5 }]
fallbacks = ["small"]
"""


def test_tables_of_the_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "isthmus.toml").write_text(FILE)
    settings = load_settings()
    east = settings.upstreams["east"]
    assert (east.api_key, east.concurrency, east.refuse_fields) == (
        "sk-secret-of-east",
        4,
        ("store",),
    )
    fast = settings.models["team/fast"]
    assert (fast.targets[0].model, fast.targets[0].weight, fast.retries) == ("large", 2.5, 1)
    assert "sk-secret" not in repr(settings.upstreams)


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "isthmus.toml").write_text(FILE)
    monkeypatch.setenv("ISTHMUS_UPSTREAMS", json.dumps({"west": {"url": "http://h/v1"}}))
    settings = load_settings()
    assert (list(settings.upstreams), list(settings.models)) == (["west"], ["team/fast"])


TARGET = 'targets = [{ upstream = "u", model = "m" }]'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[upstreams.a]\nurl = "http://h/v1"\nkey = "x"', "ISTHMUS_UPSTREAMS: a.key: there is no such key"),
        ("[upstreams.a]\nconcurrency = 1", "ISTHMUS_UPSTREAMS: a.url: field required"),
        ('[upstreams.a]\nurl = "http://h/v1"\nconcurrency = 0', "ISTHMUS_UPSTREAMS: a.concurrency: "),
        ('[upstreams.a]\nurl = "http://h/v1"\nserves = ["tea"]', "ISTHMUS_UPSTREAMS: a.serves.0: "),
        ('[upstreams."a b"]\nurl = "http://h/v1"', "ISTHMUS_UPSTREAMS: 'a b' is not a name"),
        ("upstreams = 3", r"ISTHMUS_UPSTREAMS: give a table \[upstreams.NAME\]"),
        ("[models.a]\ntargets = []", "ISTHMUS_MODELS: a.targets: "),
        (f"[models.a]\n{TARGET}\nweights = 3", "ISTHMUS_MODELS: a.weights: there is no such key"),
        (f"[models.default]\n{TARGET}", "ISTHMUS_MODELS: 'default' is what LLM_MODEL says"),
        (f'[models."agent/x"]\n{TARGET}', "ISTHMUS_MODELS: 'agent/x' would hide an agent"),
        (
            f'[models.a]\n{TARGET}\nfallbacks = ["b"]\n[models.b]\n{TARGET}\ncontext_fallbacks = ["a"]',
            "ISTHMUS_MODELS: a: its fallbacks go in a circle: a -> b -> a",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_mend(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "isthmus.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        load_settings()


def test_a_key_in_a_malformed_table_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "isthmus.toml").write_text(FILE.replace("concurrency = 4", 'concurrency = "many"'))
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "sk-secret" not in str(refused.value)


def test_text_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_MODELS", "fast=east/large")
    with pytest.raises(
        ConfigurationError, match=r"ISTHMUS_MODELS: it is not JSON; give it as \[models"
    ):
        load_settings()
