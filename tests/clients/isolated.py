"""Programs that need other packages than the project's: run by uv in an environment of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

HERE = Path(__file__).parent
RUN_SECONDS = 280.0  # the first of them installs

long_form = pytest.mark.skipif(
    os.environ.get("TEST_LENGTH") != "long", reason="installs packages: TEST_LENGTH=long"
)


async def run(packages: list[str], program: str, *arguments: str, given: str = "") -> Any:
    """Run a program of this folder with what uv's options in `packages` install; gives the JSON of its last line."""
    uv = shutil.which("uv")
    assert uv is not None
    command = [uv, "run", "--isolated", "--no-project", *packages, "python", str(HERE / program)]

    def ended() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=HERE,
            input=given,
            capture_output=True,
            encoding="utf-8",
            timeout=RUN_SECONDS,
        )

    done = await anyio.to_thread.run_sync(ended)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
