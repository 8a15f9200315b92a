"""Clients from npm, each a script that uses it as its documentation does and prints what came back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.doors.live import Live
from tests.node import BINARIES, OPENAI, install

HELLO = "Hello, 地峡!"
PERSON = {"name": "Ada", "age": 0}
DIMENSIONS = 512  # of the embedded embedder
RUN_SECONDS = 120.0


@pytest.fixture(scope="module")
def scripts() -> Path:
    """The folder of the scripts, beside the packages that they import."""
    return install(OPENAI).parent


async def run(scripts: Path, script: str, live: Live, *more: str) -> dict[str, Any]:
    command = [str(BINARIES / "node"), str(scripts / script), f"{live.url}/v1", live.key, *more]

    def ended() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={"PATH": os.environ["PATH"], "AI_SDK_LOG_WARNINGS": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=RUN_SECONDS,
        )

    done = await anyio.to_thread.run_sync(ended)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_openai(scripts: Path, live: Live) -> None:
    said = await run(scripts, "openai.js", live)
    assert said.pop("pieces") > 1
    assert said.pop("usage") > 0
    numbers = said.pop("numbers")
    assert numbers == list(range(len(numbers)))
    assert said == {
        "chat": HELLO,
        "stream": HELLO,
        "tools": "the sum is 0",
        "streamed_tools": "the sum is 0",
        "structured": PERSON,
        "response": HELLO,
        "final": HELLO,
        "typed": PERSON,
        "embeddings": [DIMENSIONS, DIMENSIONS],
        "refusal": ["NotFoundError", 404, "model_not_found"],
    }


@pytest.mark.parametrize("face", ["responses", "chat", "compatible"])
async def test_the_ai_sdk(scripts: Path, live: Live, face: str) -> None:
    said = await run(scripts, "ai_sdk.js", live, face)
    assert said.pop("pieces") > 1
    assert said == {
        "chat": HELLO,
        "finish": "stop",
        "tokens": True,
        "stream": HELLO,
        "tools": "the sum is 0",
        "steps": 2,
        "streamed_tools": "the sum is 0",
        "structured": PERSON,
        "embeddings": [DIMENSIONS, DIMENSIONS],
    }
