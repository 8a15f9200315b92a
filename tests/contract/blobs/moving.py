"""A process that moves one large blob in and out, and prints what it cost as JSON: `moving.py URL FOLDER MIB`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from mcp_server.storage.objects import BlobStore, open_blobs
from tests.contract.blobs.conftest import opening

MIB = 1024 * 1024
CHUNK = 65_536


async def chunks(mib: int) -> AsyncGenerator[bytes]:
    for number in range(mib * MIB // CHUNK):
        yield number.to_bytes(8, "big") * (CHUNK // 8)


async def moved(store: BlobStore, mib: int) -> dict[str, float]:
    await store.delete((await store.put(chunks(1))).key)
    before = _peak_mib()
    began = time.perf_counter()
    blob = await store.put(chunks(mib))
    put = time.perf_counter()
    digest = hashlib.sha256()
    async for chunk in store.get(blob.key, 0, blob.size):
        digest.update(chunk)
    got = time.perf_counter()
    assert (blob.size, blob.sha256) == (mib * MIB, digest.hexdigest())
    await store.delete(blob.key)
    return {
        "grown_mib": _peak_mib() - before,
        "put_mib_per_second": round(mib / (put - began)),
        "get_mib_per_second": round(mib / (got - put)),
    }


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


async def main() -> None:
    url, folder, mib = sys.argv[1:]
    async with open_blobs(opening(url or None, Path(folder))) as store:
        print(json.dumps(await moved(store, int(mib))))


asyncio.run(main())
