"""What a process of role openai must be told, and what it must not be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_server.auth.passes import Pass, Passes
from mcp_server.auth.principal import OWNER
from mcp_server.errors import ConfigurationError, Unauthenticated
from mcp_server.facade_runtime import check_facade_settings, open_facade_runtime
from mcp_server.secret import pass_secret, server_secret
from mcp_server.settings import Settings, load_settings

WHOLE: dict[str, Any] = {
    "mcp_url": "http://127.0.0.1:1/mcp",
    "database_url": "postgresql://u:p@127.0.0.1:1/control",
    "pass_key": "0123456789abcdef0123456789abcdef",
}
OF_DATA: dict[str, Any] = {
    "data_url": "postgresql://u:p@127.0.0.1:1/data",
    "objects_url": "s3://k:s@127.0.0.1:1/bucket",
    "vectors_url": "milvus://127.0.0.1:1",
    "databases": "crm=postgresql://u:p@127.0.0.1:1/crm",
    "buckets": "photos=s3://k:s@127.0.0.1:1/photos",
}


def settings(data_dir: Path, **values: Any) -> Settings:
    return load_settings(data_dir=data_dir, **values)


def test_what_it_needs_is_enough(data_dir: Path) -> None:
    urls = check_facade_settings(settings(data_dir, **WHOLE))
    assert urls == (WHOLE["mcp_url"], WHOLE["database_url"])


def test_the_secret_of_the_deployment_signs_passes_too(data_dir: Path) -> None:
    given = {name: value for name, value in WHOLE.items() if name != "pass_key"}
    older = settings(data_dir, **given, secret_key=WHOLE["pass_key"])
    assert check_facade_settings(older) == (WHOLE["mcp_url"], WHOLE["database_url"])
    shown = Passes(pass_secret(older)).make(Pass(OWNER))
    assert Passes(server_secret(older)).open(shown) == Pass(OWNER)


def test_a_pass_key_is_told_apart_from_the_secret_of_the_data(data_dir: Path) -> None:
    both = settings(data_dir, **WHOLE, secret_key="f" * 32)
    shown = Passes(pass_secret(both)).make(Pass(OWNER))
    with pytest.raises(Unauthenticated, match="ISTHMUS_PASS_KEY"):
        Passes(server_secret(both)).open(shown)


@pytest.mark.parametrize("name", WHOLE)
async def test_what_is_missing_is_named(data_dir: Path, name: str) -> None:
    given = {key: value for key, value in WHOLE.items() if key != name}
    with pytest.raises(ConfigurationError, match=f"--role openai: set ISTHMUS_{name.upper()}"):
        async with open_facade_runtime(settings(data_dir, **given)):
            pass


@pytest.mark.parametrize("name", OF_DATA)
async def test_credentials_of_data_are_refused_by_name(data_dir: Path, name: str) -> None:
    whole = settings(data_dir, **WHOLE, **{name: OF_DATA[name]})
    with pytest.raises(ConfigurationError, match=f"unset ISTHMUS_{name.upper()}; this role"):
        async with open_facade_runtime(whole):
            pass
