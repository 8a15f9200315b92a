"""What counts as silence of a model between two tokens."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from mcp_server.errors import Timeout
from mcp_server.llm.openai_compatible import open_openai_compatible
from mcp_server.llm.terms import Terms
from tests.contract.llm_upstream import EVENT_STREAM, REQUEST, Exchange, chunk, serving

TERMS = Terms(between_tokens_seconds=0.1)


async def test_a_client_that_takes_its_time_is_not_the_silence_of_the_model() -> None:
    taken = asyncio.Event()

    async def waiting(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM)
        await exchange.send_events(chunk("a"))
        await taken.wait()
        await exchange.send_events(chunk(finish="stop"), "[DONE]")

    async with serving(waiting) as upstream:
        async with open_openai_compatible(upstream.url, None, terms=TERMS) as model:
            async with aclosing(model.stream(REQUEST)) as chunks:
                await anext(chunks)
                await asyncio.sleep(TERMS.between_tokens_seconds * 3)
                taken.set()
                assert len([each async for each in chunks]) == 1


async def test_a_model_that_falls_silent_is_left_and_its_connection_closed() -> None:
    gone = asyncio.Event()

    async def falling_silent(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM)
        await exchange.send_events(chunk("a"))
        await exchange.gone.wait()
        gone.set()

    async with serving(falling_silent) as upstream:
        async with open_openai_compatible(upstream.url, None, terms=TERMS) as model:
            async with aclosing(model.stream(REQUEST)) as chunks:
                await anext(chunks)
                with pytest.raises(Timeout, match="silent for too long"):
                    await anext(chunks)
            async with asyncio.timeout(30):
                await gone.wait()
