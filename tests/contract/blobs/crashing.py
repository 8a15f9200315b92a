"""A process that puts objects without end, to be killed in the middle: `crashing.py CONTROL_URL URL FOLDER TENANT SEED`."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectService
from mcp_server.storage.objects import open_blobs
from mcp_server.storage.sql.control import open_control
from tests.contract.blobs.conftest import opening

WRITERS = 4
SIZES = (0, 10, 500_000, 9_000_000, 26_000_000)


async def in_chunks(body: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), 200_000):
        yield body[start : start + 200_000]


async def write(objects: ObjectService, principal: Principal, number: int, seed: int) -> None:
    choose = random.Random(seed * WRITERS + number)
    for count in range(1_000_000):
        key = f"{number}/{count % 10}"
        body = choose.randbytes(1000) * (choose.choice(SIZES) // 1000)
        print("begin", key, hashlib.sha256(body).hexdigest(), flush=True)
        await objects.put_stream(principal, "crash", key, in_chunks(body))
        print("done", key, hashlib.sha256(body).hexdigest(), flush=True)


async def main(control_url: str, url: str, folder: str, tenant: str, seed: str) -> None:
    principal = Principal(tenant, "writer", OWNER_SCOPES)
    where = opening(url or None, Path(folder))
    async with open_control(control_url) as control, open_blobs(where) as blobs:
        objects = ObjectService(Operations(Limits(), Audit()), control, blobs)
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(write(objects, principal, number, int(seed)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
