"""Which combinations of engines are refused before anything opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_server.engines import open_engines
from mcp_server.errors import ConfigurationError
from mcp_server.settings import Settings

ONE = "postgresql://u:p@127.0.0.1:1/one"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"database_url": ONE, "data_url": ONE.replace("u:p@", "v:q@")},
            "ISTHMUS_DATA_URL names the database of",
        ),
        ({"mcp_url": "http://127.0.0.1:1/mcp"}, "ISTHMUS_MCP_URL: .*--role openai"),
    ],
)
async def test_what_cannot_be_opened_is_refused_by_name(
    tmp_path: Path, values: dict[str, Any], line: str
) -> None:
    settings = Settings(data_dir=tmp_path, **values)
    with pytest.raises(ConfigurationError, match=line):
        async with open_engines(settings, bytes(32)):
            pass
