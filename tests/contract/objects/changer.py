"""Change objects in every way without end, and print each change that was acknowledged: to be killed in the middle."""

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
from mcp_server.services.objects import ObjectService, uploads
from mcp_server.services.objects.uploads import Terms, UploadService
from mcp_server.storage.objects import open_blobs
from mcp_server.storage.sql.control import open_control
from tests.contract.objects.places import opening

WORKERS, KEYS = 4, 5
PART = 50_000
SIZES = [0, 10, 5_000, 120_000, 400_000]


async def in_chunks(body: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), 20_000):
        yield body[start : start + 20_000]
        await asyncio.sleep(0)


class Worker:
    """Changes keys of its own, one after the other, so that at most one change of it is in doubt."""

    def __init__(
        self, objects: ObjectService, lifts: UploadService, who: Principal, number: int, seed: str
    ) -> None:
        self._objects = objects
        self._uploads = lifts
        self._who = who
        self._choose = random.Random(f"{seed}/{number}")
        self._keys = [f"w{number}/{key}" for key in range(KEYS)]
        self._there: dict[str, str] = {}

    async def work(self) -> None:
        while True:
            key = self._choose.choice(self._keys)
            change = self._choose.choice(
                [self.put, self.upload, self.upload, self.copy, self.delete]
            )
            await change(key)

    async def put(self, key: str) -> None:
        body = self._body()
        digest = self._begin(key, body)
        await self._objects.put_stream(self._who, "crash", key, in_chunks(body))
        self._done(key, digest)

    async def upload(self, key: str) -> None:
        body = self._body()
        digest = self._begin(key, body)
        upload = await self._uploads.create(self._who, "crash", key, len(body), Terms())
        while upload.received < len(body):
            end = upload.received + self._choose.randint(1, 200_000)
            chunk = in_chunks(body[upload.received : end])
            upload = await self._uploads.append(self._who, upload.id, upload.received, chunk)
        self._done(key, digest)

    async def copy(self, key: str) -> None:
        source = self._choose.choice(self._keys)
        if source not in self._there:
            return
        digest = self._there[source]
        print("begin", key, digest, flush=True)
        await self._objects.copy(self._who, "crash", source, "crash", key)
        self._done(key, digest)

    async def delete(self, key: str) -> None:
        print("begin", key, "absent", flush=True)
        await self._objects.delete(self._who, "crash", key)
        self._there.pop(key, None)
        print("done", key, "absent", flush=True)

    def _body(self) -> bytes:
        return self._choose.randbytes(self._choose.choice(SIZES))

    def _begin(self, key: str, body: bytes) -> str:
        digest = hashlib.sha256(body).hexdigest()
        print("begin", key, digest, flush=True)
        return digest

    def _done(self, key: str, digest: str) -> None:
        self._there[key] = digest
        print("done", key, digest, flush=True)


async def main(
    control_url: str, url: str, folder: str, namespace: str, tenant: str, seed: str
) -> None:
    uploads.PART_BYTES = PART
    who = Principal(tenant, "changer", OWNER_SCOPES)
    place = opening(url or None, Path(folder), namespace)
    async with open_control(control_url) as control, open_blobs(place) as blobs:
        operations = Operations(Limits(), Audit())
        objects = ObjectService(operations, control, blobs, 7.0)
        lifts = UploadService(operations, control, objects, 10_000_000)
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(Worker(objects, lifts, who, number, seed).work())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
