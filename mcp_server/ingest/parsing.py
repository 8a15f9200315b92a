"""Parses documents that nobody vouches for: what has a risk of its own in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from contextlib import AbstractAsyncContextManager
from typing import IO, Any, Protocol

import anyio
import anyio.to_thread

from mcp_server.errors import AppError, InvalidInput, Unavailable
from mcp_server.ingest import formats, parse_process
from mcp_server.ingest.parsed import Parsed, Section
from mcp_server.ingest.source import MAX_TEXT_CHARACTERS, Source, UnknownKind, Unreadable

MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
AT_ONCE = 2
_SLACK_SECONDS = 5
# A character may take six bytes in JSON, and sections come beside the text.
_MOST_ANSWER_BYTES = MAX_TEXT_CHARACTERS * 8
_READ_BYTES = 1 << 20
# All that the child process gets of our environment: no setting, no secret.
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class UnsupportedDocument(InvalidInput):
    """It is of a kind that is not read here, however whole it is."""


class Places(Protocol):
    """Who may read a risky document next."""

    def turn(self, tenant: str) -> AbstractAsyncContextManager[None]:
        """Wait for a turn, and have it while the context is open."""
        ...


class Parser:
    """Turns bytes into text, risky documents in their turn: each may keep its place for a minute."""

    def __init__(self, places: Places) -> None:
        self._places = places

    async def parse(
        self,
        body: bytes,
        content_type: str | None = None,
        name: str = "",
        *,
        param: str,
        tenant: str = "",
    ) -> Parsed:
        """Parse a document declared as `content_type` (with a charset, if any) and `name`, if at all.

        Raises:
            InvalidInput: it is larger than 32 MiB, of no kind that can be read, broken, encrypted, or without
                text; `param` is to blame, and the message says why.
        """
        try:
            return await self._read(body, content_type, name, tenant)
        except Unreadable as error:
            kind = UnsupportedDocument if isinstance(error, UnknownKind) else InvalidInput
            raise kind(f"{param}: {error}", param=param) from error

    async def _read(self, body: bytes, content_type: str | None, name: str, tenant: str) -> Parsed:
        if len(body) > MAX_DOCUMENT_BYTES:
            raise Unreadable(f"it has more than {MAX_DOCUMENT_BYTES} bytes; split it")
        media_type, charset = _declared(content_type)
        source = Source(body, charset, name)
        kind = formats.find(media_type, source)
        if len(body) <= formats.formats()[kind].INLINE_BYTES:
            return await anyio.to_thread.run_sync(formats.parsed_as, kind, source)
        async with self._places.turn(tenant):
            return await _apart(kind, source)


def _declared(content_type: str | None) -> tuple[str, str | None]:
    """Return the media type and the charset of a Content-Type."""
    media_type, *parameters = (content_type or "").split(";")
    for parameter in parameters:
        key, _, value = parameter.strip().partition("=")
        if key.lower() == "charset" and value:
            return media_type.strip().lower(), value
    return media_type.strip().lower(), None


async def _apart(kind: str, source: Source) -> Parsed:
    """Parse in a process that cannot take more than its bounds, and knows nothing but the document."""
    with tempfile.TemporaryFile() as given:
        await anyio.to_thread.run_sync(_write, given, kind, source)
        # A start cut in the middle would leave a process that nobody ends.
        starting = asyncio.ensure_future(_start(given))
        try:
            process = await asyncio.shield(starting)
            async with asyncio.timeout(parse_process.MOST_SECONDS + _SLACK_SECONDS):
                told = await _read(process)
                code = await process.wait()
        except TimeoutError as error:
            raise Unreadable("it takes too long to read; split it") from error
        finally:
            with anyio.CancelScope(shield=True):  # a scope cancels whoever waits, again and again
                await _end(await asyncio.shield(starting))
    # A large answer takes a while to read.
    return await anyio.to_thread.run_sync(_parsed, told, code)


async def _start(given: IO[bytes]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", parse_process.__name__),
        stdin=given,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    )


def _write(given: IO[bytes], kind: str, source: Source) -> None:
    header = {"format": kind, "charset": source.charset, "name": source.name}
    given.write(json.dumps(header).encode() + b"\n" + source.body)
    given.seek(0)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process if it has not ended, and close its pipe, which only reading to its end does."""
    if process.returncode is None:
        process.kill()
    await process.wait()
    assert process.stdout is not None, "it was asked for"  # noqa: S101
    await process.stdout.read()


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None, "it was asked for"  # noqa: S101
    told = bytearray()
    while received := await process.stdout.read(_READ_BYTES):
        told += received
        if len(told) > _MOST_ANSWER_BYTES:
            raise Unreadable("its text is too long; split it")
    return bytes(told)


def _parsed(told: bytes, code: int) -> Parsed:
    if code in {-signal.SIGXCPU, -signal.SIGALRM}:
        raise Unreadable("it takes too long to read; split it")
    if code == -signal.SIGKILL:
        raise _killed()
    if code != 0:
        raise Unreadable("it is broken, or needs more memory than a document may")
    answer: dict[str, Any] = json.loads(told)
    if "unreadable" in answer:
        raise Unreadable(answer["unreadable"])
    found: dict[str, Any] = answer["parsed"]
    listed: list[dict[str, Any]] = found["sections"]
    for part in listed:
        part["headings"] = tuple(part["headings"])
    sections = tuple(Section(**part) for part in listed)
    return Parsed(found["text"], found["title"], found["media_type"], sections)


def _killed() -> AppError:
    return Unavailable("the process that read the document was killed from outside; try again")
