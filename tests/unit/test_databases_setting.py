"""How ISTHMUS_DATABASES is read: nothing is guessed, nothing is ignored, and no secret is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.errors import ConfigurationError
from mcp_server.settings import load_settings
from mcp_server.settings_values import NamedDatabase

URL = "postgresql://reader:hunter2@db.example:5432/crm"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_DATA_DIR", str(tmp_path / "data"))


def test_databases_have_names_modes_and_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    several = "postgresql://u:p@one.example,two.example/crm?target_session_attrs=any"
    given = f"crm={URL}, books-2={URL}?mode=rw&schema=ledger&sslmode=require,far={several}"
    monkeypatch.setenv("ISTHMUS_DATABASES", given)
    assert load_settings().databases == (
        NamedDatabase("crm", URL),
        NamedDatabase("books-2", f"{URL}?sslmode=require", writable=True, schema="ledger"),
        NamedDatabase("far", several),
    )
    assert "hunter2" not in repr(load_settings())


def test_a_file_gives_a_list(tmp_path: Path) -> None:
    (tmp_path / "isthmus.toml").write_text(f'databases = ["crm={URL}?mode=ro"]')
    assert load_settings().databases == (NamedDatabase("crm", URL),)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (URL, "item 1 is not NAME=postgresql"),
        (f"crm={URL},CRM={URL}", "item 2 is not NAME=postgresql"),
        ("crm=mysql://u:hunter2@h/d", "item 1 is not NAME=postgresql"),
        (f"c r m={URL}", "item 1 is not NAME=postgresql"),
        (f"crm={URL},crm={URL}", "'crm' is given twice"),
        (f"main={URL}", "'main' is each tenant's own"),
        (f"crm={URL}?mode=wr", "'crm': mode is neither ro nor rw"),
        (f"crm={URL}?mod=rw", "'crm': the parameter 'mod' is unknown"),
        (f"crm={URL}?mode=ro&mode=rw", "'crm': a parameter is given twice"),
        (f"crm={URL}?options=-c%20role%3Dpostgres", "the parameter 'options' is unknown"),
        (f"crm={URL}?default_transaction_read_only=off", "'crm': the parameter"),
        (f"crm={URL}?schema=pg_catalog", "'crm': schema is not"),
        (f"crm={URL}?schema=a.b", "'crm': schema is not"),
        (f"crm={URL}?mode", "'crm': the URL is malformed"),
        ("crm=postgresql://u:hunter2@h:port/d", "'crm': the URL is malformed"),
        ("crm=postgresql://u:hunter2@h", "'crm': the URL names no user or no database"),
        ("crm=postgresql://h/d", "'crm': the URL names no user or no database"),
    ],
)
def test_what_does_not_fit_is_one_line_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.setenv("ISTHMUS_DATABASES", given)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith("ISTHMUS_DATABASES: ")
    assert said in message
    assert "hunter2" not in message
    assert "\n" not in message
