"""The program that parses one document within bounds: the bytes on stdin, the text as JSON on stdout."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from typing import Any

MOST_MEMORY = 1024 * 1024 * 1024
MOST_CPU_SECONDS = 30
MOST_SECONDS = 60


def bound() -> None:
    """Limit this process: memory, time, no files written, no programs started."""
    signal.alarm(MOST_SECONDS)  # the default action ends the process, also inside a library
    try:
        import resource
    except ImportError:  # the platform has none
        return
    limits = {
        resource.RLIMIT_AS: MOST_MEMORY,
        resource.RLIMIT_CPU: MOST_CPU_SECONDS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, most in limits.items():
        try:
            # The processor's time ends with a signal that tells; only who ignores it is killed.
            resource.setrlimit(what, (most, most + 2 * (what == resource.RLIMIT_CPU)))
        except (ValueError, OSError):  # macOS refuses to limit the address space
            continue


def answer(given: dict[str, Any], body: bytes) -> dict[str, Any]:
    """Parse a document of the format `given["format"]`: `{parsed}`, or `{unreadable}` with the reason."""
    from mcp_server.ingest.formats import parsed_as
    from mcp_server.ingest.source import Source, Unreadable

    try:
        parsed = parsed_as(given["format"], Source(body, given["charset"], given["name"]))
    except Unreadable as error:
        return {"unreadable": str(error)}
    except (MemoryError, RecursionError):
        return {"unreadable": "it needs more memory than a document may; split it"}
    return {"parsed": asdict(parsed)}


if __name__ == "__main__":
    bound()
    header = json.loads(sys.stdin.buffer.readline())
    json.dump(answer(header, sys.stdin.buffer.read()), sys.stdout)
