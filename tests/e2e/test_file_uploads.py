"""OpenAI's client sends a file in parts while the server is killed: parts stay, and the file is there whole or not at all."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import openai
from openai import OpenAI

from tests.e2e.processes import ServeProcess

KEY = "sk-the-key-of-this-test"
PART = 6_000_000


def connect(server: ServeProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60)


def restarted(data: Path) -> ServeProcess:
    server = ServeProcess(data, API_KEY=KEY)
    server.wait_ready()
    return server


def kill_soon(server: ServeProcess, seconds: float) -> threading.Thread:
    def kill() -> None:
        time.sleep(seconds)
        server.kill_group()

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


def test_parts_and_the_end_of_an_upload_outlive_kill_9(scratch: Path) -> None:
    choose = random.Random(5)
    pieces = [choose.randbytes(PART) for _ in range(3)]
    data = scratch / "file-uploads-killed"
    server = restarted(data)
    try:
        with connect(server) as client:
            upload = client.uploads.create(
                filename="film.bin", purpose="assistants", bytes=3 * PART, mime_type="video/mp4"
            ).id
            first = client.uploads.parts.create(upload, data=pieces[0]).id
            killer = kill_soon(server, 0.01)
            with suppress(openai.APIError):  # acknowledged or not: it is sent again
                client.uploads.parts.create(upload, data=pieces[1])
            killer.join()
        server = restarted(data)
        with connect(server) as client:
            part_ids = [first]
            part_ids += [client.uploads.parts.create(upload, data=each).id for each in pieces[1:]]
            killer = kill_soon(server, 0.03)
            with suppress(openai.APIError):
                client.uploads.complete(upload, part_ids=part_ids)
            killer.join()
        server = restarted(data)
        with connect(server) as client:
            assert [each.bytes for each in client.files.list()] in ([], [3 * PART])
            done = client.uploads.complete(upload, part_ids=part_ids)
            assert done.file is not None
            assert client.files.content(done.file.id).content == b"".join(pieces)
            assert len(list(client.files.list())) == 1
    finally:
        server.kill_group()
