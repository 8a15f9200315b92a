"""Keep the child process of the embedded model running, and say how to reach it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from mcp_server.errors import Unavailable
from mcp_server.llm.api_client import ApiClient

NAME = "the embedded model"

_WORKER = Path(__file__).with_name("gguf_worker.py")
_LOAD_SECONDS = 300.0  # a large model on a slow disk
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
_ENDING_PAUSE = 0.02  # until the supervisor has seen a child end
_ENDING_CHECKS = 100
_STEADY_SECONDS = 60.0  # a child that lived this long has not failed in a row
_KEPT_OUTPUT = 2_000

_log = logging.getLogger("isthmus.llm")


@dataclass(frozen=True, slots=True)
class Load:
    """What the child loads: `context` tokens are shared by `slots` answers at a time.

    `batch` is how many tokens of a prompt are read at once, which is what a cancel waits for: 32 cost
    a tenth of the reading speed against 64.
    """

    model: str
    threads: int
    slots: int = 4
    context: int = 8192
    batch: int = 32


class _StartError(Exception):
    """The child did not come up; the text says why."""


class ModelProcess:
    """Starts the child when it is first wanted, and again whenever it ends."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._supervisor: asyncio.Task[None] | None = None
        self._client: asyncio.Future[ApiClient] | None = None
        self.pid: int | None = None

    @property
    def failure(self) -> str | None:
        """Why the last start failed, None if it did not."""
        client = self._client
        if client is None or not client.done() or client.cancelled():
            return None
        error = client.exception()
        return None if error is None else str(error)

    def start(self) -> None:
        """Begin to load the model, once; returns at once."""
        if self._supervisor is None:
            self._client = asyncio.get_running_loop().create_future()
            # It outlives the request that happens to be the first: none of its context belongs here.
            self._supervisor = asyncio.create_task(
                self._supervise(), name="embedded-model", context=contextvars.Context()
            )

    async def client(self, but_not: ApiClient | None = None) -> ApiClient:
        """Wait for the model, and give the client that reaches it.

        `but_not` is a client that got no answer: its child is about to end, wait for the next one.
        Raises Unavailable if the model cannot be loaded.
        """
        self.start()
        for _ in range(_ENDING_CHECKS):
            waited = cast("asyncio.Future[ApiClient]", self._client)
            found = await asyncio.shield(waited)
            if found is not but_not:
                return found
            await asyncio.sleep(_ENDING_PAUSE)
        raise Unavailable(f"{NAME} does not answer, though its process is there.")

    async def stop(self) -> None:
        """End the child; what it was answering breaks off."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._fail("the server is shutting down")

    async def _supervise(self) -> NoReturn:
        pause = _FIRST_PAUSE
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                async with _child(self._load) as (process, client):
                    self.pid = process.pid
                    _log.info("%s is loaded (process %d)", NAME, process.pid)
                    self._succeed(client)
                    await process.wait()
                    self._client = asyncio.get_running_loop().create_future()
                    _log.warning("%s ended: %s; starting it again", NAME, _ending(process))
            except (_StartError, OSError) as error:
                self._fail(str(error))
                _log.warning("%s cannot be loaded: %s", NAME, error)
            finally:
                self.pid = None
            pause = _FIRST_PAUSE if clock() - started > _STEADY_SECONDS else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _succeed(self, client: ApiClient) -> None:
        self._renew().set_result(client)

    def _fail(self, reason: str) -> None:
        renewed = self._renew()
        renewed.set_exception(Unavailable(f"{NAME} cannot be loaded: {reason}."))
        renewed.exception()  # perhaps nobody waits for it

    def _renew(self) -> asyncio.Future[ApiClient]:
        if self._client is None or self._client.done():
            self._client = asyncio.get_running_loop().create_future()
        return self._client


@asynccontextmanager
async def open_process(load: Load) -> AsyncGenerator[ModelProcess]:
    """Prepare the process; it starts with `start()` or when a client is first asked for."""
    process = ModelProcess(load)
    try:
        yield process
    finally:
        await process.stop()


@asynccontextmanager
async def _child(load: Load) -> AsyncGenerator[tuple[Process, ApiClient]]:
    key = secrets.token_urlsafe(32)
    # By path and with -P: a folder named mcp_server where the server happens to run is not ours.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(_WORKER)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    output = bytearray()
    reader = asyncio.create_task(_keep_tail(process, output))
    client: ApiClient | None = None
    try:
        config = json.dumps({**asdict(load), "api_key": key}).encode() + b"\n"
        url = await _started(process, config, output)
        client = ApiClient(f"{url}/v1", key, name=NAME)
        yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader
        if client is not None:
            await client.close()


async def _started(process: Process, config: bytes, output: bytearray) -> str:
    stdin = cast("asyncio.StreamWriter", process.stdin)
    stdout = cast("asyncio.StreamReader", process.stdout)
    try:
        async with asyncio.timeout(_LOAD_SECONDS):
            stdin.write(config)
            await stdin.drain()
            line = await stdout.readline()
            if not line:
                await process.wait()
                said = output.decode(errors="replace").strip().splitlines()[-1:]
                raise _StartError(" ".join([_ending(process), *said]))
    except TimeoutError:
        raise _StartError(f"it was not ready within {_LOAD_SECONDS:g} s") from None
    except ConnectionError as error:
        raise _StartError("it ended before it began to load") from error
    report: dict[str, Any] = json.loads(line)
    if "error" in report:
        raise _StartError(report["error"])
    return report["url"]


async def _keep_tail(process: Process, output: bytearray) -> None:
    stderr = cast("asyncio.StreamReader", process.stderr)
    while received := await stderr.read(4096):
        output += received
        del output[:-_KEPT_OUTPUT]


def _ending(process: Process) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def usable_threads() -> int:
    """Give the physical cores that this process may use, less one, at least 1 and at most 8.

    With a thread on every core, the barrier between ggml's threads collapses as soon as anything
    else runs: 7 instead of 51 tokens a second on two cores.
    """
    allowed = (
        os.sched_getaffinity(0)
        if hasattr(os, "sched_getaffinity")
        else set(range(os.cpu_count() or 1))
    )
    cores = {_siblings(cpu) for cpu in allowed}
    return min(8, max(1, len(cores) - 1))


def _siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return str(cpu)
