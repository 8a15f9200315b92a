"""Pages elsewhere that a caller names by URL: each place on the way to one is decided, and what is read has a bound."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.fetch import MOST_SECONDS, Fetched, Fetcher, target
from mcp_server.operation import Operations


@asynccontextmanager
async def open_page(
    operation: Operations,
    fetcher: Fetcher,
    principal: Principal,
    url: str,
    *,
    max_bytes: int,
    seconds: float = MOST_SECONDS,
) -> AsyncGenerator[Fetched]:
    """Open what a URL names, as an operation `read` on it.

    Raises:
        InvalidInput: the URL, or one it redirects to, is malformed or may not be reached.
        Forbidden: the caller may not read it. Timeout, Unavailable: no answer.
    """

    def decide(hop: str) -> None:  # a page that may be read may lead to others
        policy.require(principal, "read", hop.partition("?")[0])

    # Only what names the page: the query may hold a secret, and what is decided is recorded.
    plain = str(target.parse(url)).partition("?")[0]
    async with (
        operation(principal, "read", plain, egress=True),
        fetcher.open(url, max_bytes=max_bytes, seconds=seconds, decide=decide) as fetched,
    ):
        yield fetched
