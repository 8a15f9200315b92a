"""A large object goes in by a resumable upload and out by a link in bounded memory: 5 GiB in the long form, 200 MiB else."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.processes import LONG, serve
from tests.e2e.test_uploads import HEADERS, KEY, link_to

MIB = 1024 * 1024
SIZE, CHUNK, MOST_GROWN = (5 * 1024, 1024, 200) if LONG else (200, 100, 100)
SECONDS = 3000 if LONG else 240


class Blocks:
    """Bytes that are cheap to make and known to be whole when they come back."""

    def __init__(self, seed: bytes) -> None:
        self._block = hashlib.shake_256(seed).digest(MIB)
        self.digest = hashlib.sha256()

    def chunk(self, start: int, count: int) -> Iterator[bytes]:
        for number in range(start, start + count):
            block = number.to_bytes(8, "big") + self._block[8:]
            self.digest.update(block)
            yield block


class Peak:
    """The most memory that a process was seen to hold, in bytes."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self.begun = self.most = self._now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def grown(self) -> int:
        self._over.set()
        self._thread.join()
        return self.most - self.begun

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        for line in self._path.read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the server is gone")


@pytest.mark.timeout(SECONDS)
def test_a_large_object_moves_in_and_out_in_bounded_memory(scratch: Path) -> None:
    blocks = Blocks(b"large")
    tus = {**HEADERS, "Tus-Resumable": "1.0.0"}
    with serve(scratch / "large-objects", API_KEY=KEY) as server:
        name = base64.b64encode(b"large.bin").decode()
        begin = {**tus, "Upload-Length": str(SIZE * MIB), "Upload-Metadata": f"key {name}"}
        answer = requests.post(f"{server.url}/uploads/", headers=begin, timeout=30)
        assert answer.status_code == 201, answer.text
        url = server.url + answer.headers["Location"]
        peak, begun = Peak(server.process.pid), time.monotonic()
        for start in range(0, SIZE, CHUNK):
            headers = {
                **tus,
                "Content-Type": "application/offset+octet-stream",
                "Upload-Offset": str(start * MIB),
            }
            body = blocks.chunk(start, CHUNK)
            answer = requests.patch(url, data=body, headers=headers, timeout=SECONDS)
            assert answer.status_code == 204, answer.text
        stored = time.monotonic() - begun
        found = hashlib.sha256()
        with requests.get(link_to(server, "large.bin"), stream=True, timeout=60) as download:
            for piece in download.iter_content(MIB):
                found.update(piece)
        grown = peak.grown() // MIB
        print(
            f"{SIZE} MiB in {stored:.0f} s, out in {time.monotonic() - begun - stored:.0f} s,",
            end=" ",
        )
        print(f"memory +{grown} MiB")
        assert found.digest() == blocks.digest.digest()
        assert grown < MOST_GROWN
