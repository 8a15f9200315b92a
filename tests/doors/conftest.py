"""One OpenAI door for each file of tests that does not open its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.operation import Operations
from tests.doors.openai_door import Door, connect, open_door


@pytest.fixture(scope="module")
async def opened(control: AsyncEngine, operations: Operations) -> AsyncIterator[Door]:
    async with open_door(control, operations) as door:
        yield door


@pytest.fixture
def door(opened: Door) -> Door:
    return opened.forget()


@pytest.fixture
async def client(door: Door) -> AsyncIterator[AsyncOpenAI]:
    async with connect(door) as client:
        yield client
