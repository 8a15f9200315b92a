"""A real client uploads by tus while the server is killed under it: nothing acknowledged is lost, nothing half is shown."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
from pathlib import Path
from typing import Any

import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

from tests.e2e.processes import LONG, ServeProcess

KEY = "sk-the-key-of-this-test"
SIZE, KILLS = (400_000_000, 12) if LONG else (36_000_000, 2)
CHUNK = 3_000_000
HEADERS = {"Authorization": f"Bearer {KEY}"}


def link_to(server: ServeProcess, key: str) -> str:
    """Return a link to get an object."""
    call: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "object_link",
            "arguments": {"key": key},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {
        **HEADERS,
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "object_link",
    }
    answer = requests.post(f"{server.url}/mcp", json=call, headers=headers, timeout=30)
    result = answer.json()["result"]
    if result.get("isError"):
        raise LookupError(result["content"][0]["text"])
    return result["structuredContent"]["url"]


def test_an_upload_goes_on_after_kill_9(scratch: Path) -> None:
    choose = random.Random(4)
    body = choose.randbytes(SIZE)
    file = io.BytesIO(body)
    data = scratch / "uploads-killed"
    server = ServeProcess(data, API_KEY=KEY)
    server.wait_ready()
    kills, url, acknowledged = 0, "", 0
    try:
        while True:
            client = TusClient(f"{server.url}/uploads/", headers=HEADERS)
            if not url:
                uploader = client.uploader(
                    file_stream=file, chunk_size=CHUNK, metadata={"key": "film.bin"}
                )
            else:
                path = "/uploads/" + url.rpartition("/")[2]
                uploader = client.uploader(
                    file_stream=file, chunk_size=CHUNK, url=server.url + path
                )
                assert uploader.offset >= acknowledged
            killer = None
            if kills < KILLS:
                kills += 1
                until = SIZE * kills // (KILLS + 1)
                killer = threading.Thread(target=kill_at, args=(server, uploader, until, choose))
                killer.start()
            try:
                uploader.upload()
            except (TusUploadFailed, TusCommunicationError, requests.RequestException):
                assert killer is not None, "".join(server.errors)[-3000:]
            finally:
                url, acknowledged = uploader.url or url, uploader.offset
            if killer is None:
                break
            killer.join()
            server = ServeProcess(data, API_KEY=KEY)
            server.wait_ready()
        with requests.get(link_to(server, "film.bin"), timeout=60) as download:
            assert download.status_code == 200
        assert hashlib.sha256(download.content).digest() == hashlib.sha256(body).digest()
    finally:
        server.kill_group()


def kill_at(server: ServeProcess, uploader: Any, until: int, choose: random.Random) -> None:
    """kill -9 a moment after so many bytes were acknowledged: in the middle of a chunk."""
    deadline = time.monotonic() + 60
    while uploader.offset < until and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(choose.uniform(0, 0.03))
    server.kill_group()
