"""A head is written with the bytes behind it where they come in one go, alone when they do not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from mcp_server.transports.joined_head import JoinedHead

LONG = b"x" * 70_000


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


def joined(transport: Transport) -> tuple[JoinedHead, list[None]]:
    sent: list[None] = []
    loop = asyncio.get_running_loop()
    return JoinedHead(cast("Any", transport), loop, lambda: sent.append(None)), sent


@pytest.mark.parametrize(
    ("body", "written"),
    [(b"body", [b"headbody"]), (b"", [b"head"]), (LONG, [b"head", LONG])],
)
async def test_one_write_where_the_body_follows_at_once(body: bytes, written: list[bytes]) -> None:
    transport = Transport()
    head, sent = joined(transport)
    head.write(b"head")
    assert transport.written == []
    head.write(body)
    assert transport.written == written
    await asyncio.sleep(0.01)
    assert transport.written == written
    assert len(sent) == 1  # from then on the transport stands for itself


async def test_a_head_alone_is_written_when_the_loop_comes_round() -> None:
    transport = Transport()
    head, sent = joined(transport)
    head.write(b"head")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (transport.written, len(sent)) == ([b"head"], 1)


async def test_closing_sends_what_waits_and_a_closed_transport_takes_nothing() -> None:
    transport = Transport()
    head, _ = joined(transport)
    head.write(b"head")
    head.close()
    assert (transport.written, head.is_closing()) == ([b"head"], True)
    late, sent = joined(transport)
    late.write(b"late")
    late.flush()
    assert (transport.written, len(sent)) == ([b"head"], 1)
