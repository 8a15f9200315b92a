"""Documents from where they are - a text, an object, a URL - into a vector store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, LimitExceeded
from mcp_server.fetch import Fetcher
from mcp_server.ingest.measure import LEAST_TOKENS, MOST_TOKENS, Tokens
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.parsing import AT_ONCE, MAX_DOCUMENT_BYTES, Parser
from mcp_server.operation import Operation, Operations
from mcp_server.services.objects import ObjectService
from mcp_server.services.pages import open_page
from mcp_server.services.vectors import VectorAdded, VectorService
from mcp_server.services.vectors.indexing import Progress
from mcp_server.services.vectors.turns import Turns
from mcp_server.services.writes import Draft, Record, carry_out

MOST_OBJECTS = 10_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document is: exactly one of `text`, `object` (`BUCKET/KEY` or a file's id) and `url`.

    `content_type` says what it is; by default what is stored of the object, or what the URL answers.
    `filename` is what the object was called where it came from, if its key does not tell.
    """

    text: str | None = None
    object: str | None = None
    url: str | None = None
    content_type: str | None = None
    filename: str | None = None

    def check(self) -> None:
        """Check that one of the three is given.

        Raises:
            InvalidInput: none or several are, or the object's name is malformed.
        """
        if sum(given is not None for given in (self.text, self.object, self.url)) != 1:
            raise InvalidInput(
                "text: give text, object or url, one of them and not several", param="text"
            )
        if self.object is not None:
            address_of(self.object)

    @property
    def document(self) -> str:
        """The document's id if the caller gives none: the object's or URL's name, or one of the text itself."""
        if self.text is not None:
            return f"doc_{sha256(self.text.encode('utf-8', 'replace')).hexdigest()[:24]}"
        return self.object if self.object is not None else str(self.url).partition("#")[0]


@dataclass(frozen=True, slots=True)
class Read:
    """A document that was read, and the URI it came from; None for a text that came with the call."""

    parsed: Parsed
    source: str | None = None


class IngestService:
    """Reads documents with the caller's rights, and adds them to stores."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        objects: ObjectService,
        vectors: VectorService,
        fetcher: Fetcher,
    ) -> None:
        self._operation = operation
        self._control = control
        self._objects = objects
        self._vectors = vectors
        self._fetcher = fetcher
        self._parser = Parser(Turns(AT_ONCE, AT_ONCE))

    async def add(
        self,
        principal: Principal,
        store: str,
        origin: Origin,
        *,
        document: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        idempotency_key: str | None = None,
        progress: Progress | None = None,
    ) -> VectorAdded:
        """Index one document, in the place of the one of its id; all of it or nothing.

        `max_tokens` bounds each chunk (o200k_base); by default 128 words. The same text with the same
        metadata is not indexed again, however it would be cut.

        Raises:
            InvalidInput, LimitExceeded, NotFound: the document cannot be read; says why. Unavailable,
            Timeout: what it is read from does not answer; `param` is `url` if that is a URL.
            And what `VectorService.draft_write` raises.
        """
        origin.check()
        given = _Given(document or origin.document, metadata, _measure(max_tokens), progress)
        # The URI under which the store's own draft will write.
        place = await self._vectors.draft_delete(principal, store, given.document)
        draft = _ReadDraft(self, principal, store, origin, given, place.uri)
        async with self._operation(principal, "write", draft.uri, key=idempotency_key) as op:
            return cast("VectorAdded", await carry_out(self._control, op, draft))

    async def read(self, principal: Principal, origin: Origin) -> Read:
        """Read a document and parse it.

        Raises:
            InvalidInput, LimitExceeded, NotFound: it cannot be read; says why.
            Unavailable, Timeout: what it is read from does not answer.
        """
        if origin.url is not None:
            return await self._from_url(principal, origin.url, origin.content_type)
        if origin.object is not None:
            return await self._from_object(principal, origin.object, origin)
        text, kind = origin.text or "", origin.content_type
        if kind is None:
            return Read(Parsed(text))
        plain = kind.partition(";")[0]
        body = text.encode("utf-8", "surrogatepass")
        return Read(
            await self._parser.parse(
                body, f"{plain}; charset=utf-8", param="text", tenant=principal.tenant
            )
        )

    async def objects_under(self, principal: Principal, place: str) -> list[str]:
        """Return the `BUCKET/KEY` of each object below `BUCKET/PREFIX`, in byte order.

        Raises:
            LimitExceeded: there are more than 10,000.
        """
        bucket, _, prefix = place.partition("/")
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await self._objects.list(
                principal, bucket, prefix=prefix or None, limit=1000, cursor=cursor
            )
            found += [f"{bucket}/{item['key']}" for item in page["items"] if "key" in item]
            cursor = page["next_cursor"]
            if len(found) > MOST_OBJECTS:
                raise LimitExceeded(
                    f"object_prefix: there are more than {MOST_OBJECTS} objects below {place[:80]!r}; "
                    "give a longer prefix",
                    param="object_prefix",
                )
            if cursor is None:
                return found

    async def _from_object(self, principal: Principal, name: str, origin: Origin) -> Read:
        bucket, key = address_of(name)
        info, stream = await self._objects.open(principal, bucket, key)
        async with aclosing(stream):
            if info["size"] > MAX_DOCUMENT_BYTES:
                raise InvalidInput(
                    f"object: {info['size']} bytes are more than the {MAX_DOCUMENT_BYTES} that a "
                    "document may have; split it",
                    param="object",
                )
            body = b"".join([part async for part in stream])
        kind, called = origin.content_type or info["content_type"], origin.filename or key
        parsed = await self._parser.parse(
            body, kind, called, param="object", tenant=principal.tenant
        )
        return Read(parsed, f"object://{bucket}/{key}")

    async def _from_url(self, principal: Principal, url: str, content_type: str | None) -> Read:
        async with open_page(
            *(self._operation, self._fetcher, principal, url), max_bytes=MAX_DOCUMENT_BYTES
        ) as fetched:
            body = await fetched.read()
            kind, source = content_type or fetched.content_type, fetched.url
        name = urlsplit(source).path
        return Read(
            await self._parser.parse(body, kind, name, param="url", tenant=principal.tenant), source
        )

    async def draft(self, principal: Principal, store: str, read: Read, given: _Given) -> Draft:
        """Return the store's draft of a document that was read."""
        parsed = read.parsed
        return await self._vectors.draft_write(
            principal,
            store,
            parsed.text,
            document=given.document,
            metadata=given.metadata,
            title=parsed.title,
            source=read.source,
            media_type=parsed.media_type,
            sections=parsed.sections,
            measure=given.measure,
            progress=given.progress,
        )


@dataclass(frozen=True, slots=True)
class _Given:
    """What the caller said of a document."""

    document: str
    metadata: Mapping[str, Any] | None
    measure: Tokens | None
    progress: Progress | None


class _ReadDraft:
    """The draft of a document that is read only once the write is decided, and not done yet."""

    verb: Literal["write"] = "write"
    effect = "write"

    def __init__(
        self,
        ingest: IngestService,
        principal: Principal,
        store: str,
        origin: Origin,
        given: _Given,
        uri: str,
    ) -> None:
        self.uri = uri
        self._ingest = ingest
        self._principal = principal
        self._store = store
        self._origin = origin
        self._given = given
        self._inner: Draft | None = None

    async def prepare(self, op: Operation) -> None:
        read = await self._ingest.read(self._principal, self._origin)
        self._inner = await self._ingest.draft(self._principal, self._store, read, self._given)
        await self._inner.prepare(op)

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        return await self._read().apply(tx, op)

    async def abandon(self) -> None:
        if self._inner is not None:
            await self._inner.abandon()

    def record(self) -> Record:
        return self._read().record()

    def _read(self) -> Draft:
        assert self._inner is not None, "it is prepared before it is applied"  # noqa: S101
        return self._inner


def address_of(name: str) -> tuple[str, str]:
    """Return the bucket and the key of an object; a file's id is its key in the bucket of files.

    Raises:
        InvalidInput: it is neither `BUCKET/KEY` nor a file's id.
    """
    bucket, _, key = (f"files/{name}" if name.startswith("file-") else name).partition("/")
    if not key:
        raise InvalidInput(
            f"object: {name[:80]!r} is not BUCKET/KEY, for example default/notes.md", param="object"
        )
    return bucket, key


def _measure(max_tokens: int | None) -> Tokens | None:
    if max_tokens is None:
        return None
    if not LEAST_TOKENS <= max_tokens <= MOST_TOKENS:
        raise InvalidInput(
            f"chunking: {max_tokens} is not within {LEAST_TOKENS}-{MOST_TOKENS} tokens",
            param="chunking",
        )
    return Tokens(max_tokens)
