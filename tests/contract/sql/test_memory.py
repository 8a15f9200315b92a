"""A statement that eats memory ends alone: the server and the other sessions live on."""

from __future__ import annotations

import sys

import pytest

from mcp_server.auth.principal import Principal
from mcp_server.errors import LimitExceeded
from mcp_server.services.sql import SqlService
from tests.contract.sql.conftest import OUTSIDE

GREEDY = "select length(a || 'x'), length(b || 'y') from (select repeat($1, $2), repeat($1, $2)) s (a, b)"


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is the kernel's")
@pytest.mark.skipif(OUTSIDE is not None, reason="only the embedded server is bounded by us")
async def test_one_backend_cannot_take_all_memory(sql: SqlService, principal: Principal) -> None:
    with pytest.raises(LimitExceeded, match="out of memory"):
        await sql.query(principal, GREEDY, ["a", 900_000_000])
    assert (await sql.query(principal, "select 1"))["rows"] == [[1]]
