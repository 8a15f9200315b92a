"""A large object passes through in bounded memory: 5 GiB in the long form, 300 MiB else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LONG = os.environ.get("TEST_LENGTH") == "long"
MIB, MOST_MIB, SECONDS = (5 * 1024, 200, 1500) if LONG else (300, 64, 120)


@pytest.mark.timeout(SECONDS)
def test_a_large_blob_moves_in_and_out_in_bounded_memory(url: str | None, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.contract.blobs.moving", url or "", str(tmp_path), str(MIB)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    cost = json.loads(ran.stdout)
    print(f"{MIB} MiB:", cost)
    assert cost["grown_mib"] < MOST_MIB
