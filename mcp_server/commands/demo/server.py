"""The server that the demo drives: one of its own in a temporary directory, or one that runs already."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp_server.errors import ConfigurationError
from mcp_server.settings import PREFIX, Settings

START_SECONDS = 120.0
STOP_SECONDS = 20.0
_READY = "Isthmus is ready at "
_SHOWN_LINES = 8
# The model is the user's; the data must not be, so no other setting reaches the demo's own server.
_PASSED_ON = (
    "llm_url",
    "llm_model",
    "llm_api_key",
    "embeddings_url",
    "embeddings_model",
    "embeddings_api_key",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A server: `url` without a path, `key` None if it asks for none, `own` if it ends with the demo."""

    url: str
    key: str | None
    own: bool

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}


def running(url: str, key: str | None) -> Target:
    """Return a running server.

    Raises:
        ConfigurationError: the URL is no http(s) URL.
    """
    base = url.rstrip("/").removesuffix("/mcp").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationError(f"--url {url}: give for example http://127.0.0.1:8321")
    return Target(base, key, own=False)


@asynccontextmanager
async def own_server(settings: Settings) -> AsyncGenerator[Target]:
    """Start `isthmus serve` on a free port over an empty data directory; end it and remove the data after.

    Raises:
        ConfigurationError: it does not start; with what it said.
    """
    folder = _temporary_folder()
    try:
        key = f"sk-demo-{secrets.token_urlsafe(24)}"
        process = await _start(settings, folder, key)
        try:
            yield Target(await _url(process, folder / "log"), key, own=True)
        finally:
            await _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="isthmus-demo-"))
    # Run by root, the database has a user of its own, who must be able to pass.
    folder.chmod(0o711)
    return folder


async def _start(settings: Settings, folder: Path, key: str) -> Process:
    config = folder / "isthmus.toml"
    config.touch()  # given explicitly, so that a file in the working directory is not read
    with (folder / "log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mcp_server", "--config", str(config), "serve"),
            *("--host", "127.0.0.1", "--port", "0"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=log,
            env=_environment(settings, folder / "data", key),
            # Ctrl-C reaches the demo alone, which ends the server when it is done with it.
            start_new_session=True,
        )


def _environment(settings: Settings, data_dir: Path, key: str) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for name in _PASSED_ON:
        value: str | tuple[str, ...] | None = getattr(settings, name)
        if value:
            given[PREFIX + name.upper()] = value if isinstance(value, str) else ",".join(value)
    given[f"{PREFIX}DATA_DIR"] = str(data_dir)
    given[f"{PREFIX}API_KEY"] = key
    return given


async def _url(process: Process, log: Path) -> str:
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.stdout is not None and (line := await process.stdout.readline()):
                text = line.decode(errors="replace").strip()
                if text.startswith(_READY):
                    return text.removeprefix(_READY)
            await process.wait()
    except TimeoutError:
        raise ConfigurationError(
            f"the demo's server was not ready within {START_SECONDS:.0f} s:\n{last_lines(log)}"
        ) from None
    raise ConfigurationError(f"the demo's server did not start:\n{last_lines(log)}")


def last_lines(log: Path) -> str:
    """Return the end of a log, where a failed start says why."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:])


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as error:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, asyncio.CancelledError):  # Ctrl-C again: no more patience
            raise
