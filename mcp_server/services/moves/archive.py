"""An export's directory: parts with their digests, named in a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio

from mcp_server.errors import Conflict, InvalidInput

FORMAT = 1
MANIFEST = "manifest.json"
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One file; `rows` says how many rows are in it, if it has any, and `columns` their names."""

    bytes: int
    sha256: str
    rows: int = 0
    columns: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class Manifest:
    """What is in an archive. `position` is the journal's at which everything in it was read."""

    revision: str
    position: str
    tenants: dict[str, int]
    created_at: str
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    blobs: int = 0
    blob_bytes: int = 0
    complete: bool = False
    format: int = FORMAT


class Archive:
    """A directory of the caller's; nothing outside of it is touched."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> None:
        """Make the directory, for its owner's eyes only: it will hold everything.

        Raises:
            Conflict: it holds something else already. InvalidInput: it cannot be written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = {path.name for path in self.root.iterdir()}
        except OSError as error:
            raise InvalidInput(
                f"{self.root}: {error.strerror}; name a directory of yours"
            ) from error
        if found and not found & {MANIFEST, "parts"}:
            raise Conflict(f"{self.root} holds something else; name a new or an empty directory")

    def read(self) -> Manifest | None:
        """Return the manifest, None before everything but the blobs is there.

        Raises:
            InvalidInput: it is no manifest of this version.
        """
        try:
            raw: dict[str, Any] = json.loads((self.root / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{self.root / MANIFEST} cannot be read ({error})") from error
        if raw.get("format") != FORMAT:
            raise InvalidInput(
                f"{self.root} has format {raw.get('format')!r}, this version reads {FORMAT}"
            )
        try:
            parts = {name: Part(**part) for name, part in raw.pop("parts").items()}
            return Manifest(**raw, parts=parts)
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(f"{self.root / MANIFEST} is damaged ({error})") from error

    def write(self, manifest: Manifest) -> None:
        """Replace the manifest, whole or not at all."""
        self._replace(self.root / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())

    def part(self, name: str) -> Path:
        """Return where a part is.

        Raises:
            InvalidInput: the name leads elsewhere.
        """
        path = (self.root / "parts" / name).resolve()
        if not path.is_relative_to((self.root / "parts").resolve()):
            raise InvalidInput(f"{self.root / MANIFEST} names a part outside of the archive")
        return path

    def blob(self, key: str) -> Path:
        """Return where a blob is: by a digest of its key, which may hold anything."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.root / "blobs" / digest[:2] / digest

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncGenerator[PartWriter]:
        """Yield a writer of a part; its file is on the disk, whole, when the context has closed."""
        path = self.part(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("wb") as file:
            yield PartWriter(file.write)
            file.flush()
            os.fsync(file.fileno())
        _sync(path.parent)

    async def measured(self, name: str) -> Part:
        """Return what a part is that another program wrote."""
        path = self.part(name)
        digest = await anyio.to_thread.run_sync(digest_of, path)
        return Part(path.stat().st_size, digest or "")

    async def write_blob(self, key: str, sha256: str, chunks: AsyncIterable[bytes]) -> None:
        """Store a blob, whole or not at all.

        Raises:
            Conflict: its bytes are not those of the digest.
        """
        path = self.blob(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest, fresh = hashlib.sha256(), path.with_suffix(".part")
        with fresh.open("wb") as file:
            async for chunk in chunks:
                digest.update(chunk)
                await anyio.to_thread.run_sync(file.write, chunk)
            file.flush()
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
        if digest.hexdigest() != sha256:
            fresh.unlink()
            raise Conflict(f"blob {key}: its bytes do not have the digest that its row names")
        fresh.rename(path)
        await anyio.to_thread.run_sync(_sync, path.parent)

    async def read_blob(self, key: str) -> AsyncGenerator[bytes]:
        """Yield a blob's bytes.

        Raises:
            InvalidInput: it is not there.
        """
        path = self.blob(key)
        try:
            file = await anyio.open_file(path, "rb")
        except OSError as error:
            raise InvalidInput(f"{path} is missing; export again, or copy it again") from error
        async with file:
            while data := await file.read(_READ_BYTES):
                yield data

    async def verify(self, manifest: Manifest, tell: Callable[[str], None]) -> None:
        """Compare every part with its digest.

        Raises:
            InvalidInput: the archive is not complete, or a part is missing or damaged.
        """
        if not manifest.complete:
            raise InvalidInput(f"{self.root}: the export is not complete; run it again")
        for name, part in manifest.parts.items():
            tell(name)
            found = await anyio.to_thread.run_sync(digest_of, self.part(name))
            if found != part.sha256:
                raise InvalidInput(
                    f"{self.part(name)} is {'missing' if found is None else 'damaged'}; "
                    "export again, or copy it again"
                )

    def _replace(self, path: Path, content: bytes) -> None:
        fresh = path.with_suffix(".part")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        _sync(path.parent)


class PartWriter:
    """Writes a part and knows its digest."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.rows = 0
        self.columns: list[str] = []

    async def __call__(self, data: bytes) -> None:
        self._digest.update(data)
        self.bytes += len(data)
        await anyio.to_thread.run_sync(self._write, data)

    @property
    def part(self) -> Part:
        return Part(self.bytes, self._digest.hexdigest(), self.rows, self.columns)


def digest_of(path: Path) -> str | None:
    """Return a file's SHA-256, None if it is not there."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
    except OSError:
        return None
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    """Have a directory's entries survive a crash of the machine: a manifest must not outlive them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


Tell = Callable[[float, float | None, str], None]
