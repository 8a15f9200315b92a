"""Put objects without end and print each one that was acknowledged: to be killed in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectService
from mcp_server.storage.objects.file import open_file_store
from mcp_server.storage.sql.control import open_control

WRITERS = 6
KEYS = 40


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 200_000):
        yield body[start : start + 200_000]
        await asyncio.sleep(0)


async def write(service: ObjectService, principal: Principal, number: int, seed: int) -> None:
    choose = random.Random(seed * WRITERS + number)
    count = 0
    while True:
        # New keys and, by the same writer, ever new contents under old ones.
        key = f"w{number}/{count if count % 2 else count % KEYS}-{seed if count % 2 else 0}"
        body = choose.randbytes(choose.choice([0, 10, 5_000, 1_500_000]))
        digest = hashlib.sha256(body).hexdigest()
        print("begin", key, digest, flush=True)
        await service.put_stream(principal, "crash", key, in_chunks(body))
        print("done", key, digest, flush=True)
        count += 1


async def main(control_url: str, root: str, tenant: str, seed: str) -> None:
    principal = Principal(tenant, "writer", OWNER_SCOPES)
    async with open_control(control_url) as control, open_file_store(Path(root)) as blobs:
        service = ObjectService(Operations(Limits(), Audit()), control, blobs)
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(write(service, principal, number, int(seed)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
