"""Server CPU per request, read from the kernel: the one figure that a busy machine disturbs least."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
FLOORS = Path(__file__).with_name("floors.py")
PLUGINS = Path(__file__).with_name("plugins")
KEY = "sk-benchmark-owner-of-the-tenant"

Request = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True)
class Figure:
    """Microseconds of the server's CPU per request, and requests per second while it was measured."""

    cpu: float
    rate: float

    def __str__(self) -> str:
        return f"{self.cpu:8.0f} µs CPU   {self.rate:7.0f}/s"


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def measure(pid: int, request: Request, *, count: int, clients: int) -> Figure:
    """Send `count` requests over `clients` loops, after a tenth of that to warm up."""
    await _send(request, count // 10, clients)
    begun, cpu = time.perf_counter(), cpu_seconds(pid)
    await _send(request, count, clients)
    spent = cpu_seconds(pid) - cpu
    return Figure(spent / count * 1e6, count / (time.perf_counter() - begun))


async def _send(request: Request, count: int, clients: int) -> None:
    numbers = iter(range(count))

    async def loop() -> None:
        for number in numbers:
            await request(number)

    await asyncio.gather(*(loop() for _ in range(clients)))


async def paired(
    floor: Callable[[], Awaitable[Figure]], ours: Callable[[], Awaitable[Figure]], rounds: int
) -> tuple[Figure, Figure]:
    """Measure both in turn and return each one's round with the median CPU."""
    floors: list[Figure] = []
    figures: list[Figure] = []
    for _ in range(rounds):
        floors.append(await floor())
        figures.append(await ours())
    return median(floors), median(figures)


async def interleaved(
    measured: Mapping[str, Callable[[], Awaitable[Figure]]], rounds: int
) -> dict[str, Figure]:
    """Measure all in turn and return of each its round with the median CPU."""
    figures: dict[str, list[Figure]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, once in measured.items():
            figures[name].append(await once())
    return {name: median(found) for name, found in figures.items()}


def median(figures: list[Figure]) -> Figure:
    """Return the figure with the median CPU."""
    return sorted(figures, key=lambda figure: figure.cpu)[len(figures) // 2]


def report(what: str, floor: Figure, ours: Figure, floor_name: str) -> None:
    """Print one comparison."""
    print(
        f"{what}\n  {floor_name:24}{floor}\n  {'isthmus':24}{ours}\n  ratio of CPU: {ours.cpu / floor.cpu:.2f}\n"
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@asynccontextmanager
async def running(
    command: list[str], port: int, environment: dict[str, str] | None = None
) -> AsyncGenerator[int]:
    """Run a server until the context ends; yields its pid when the port answers."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("ISTHMUS_")
    }
    process = subprocess.Popen(
        command,
        env=inherited | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(3600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            await asyncio.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def floor_command(*arguments: str) -> list[str]:
    return [sys.executable, str(FLOORS), *arguments]


def isthmus_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcp_server", *arguments, "--plugins", str(PLUGINS)]


def isthmus_environment(data_dir: Path, llm_url: str = "scripted:") -> dict[str, str]:
    return {"ISTHMUS_DATA_DIR": str(data_dir), "ISTHMUS_LLM_URL": llm_url, "ISTHMUS_API_KEY": KEY}
