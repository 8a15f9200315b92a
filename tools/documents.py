"""Ingestion: many documents into a vector store, as one run."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from mcp_server.errors import AppError, InvalidInput, LeaseLost, LimitExceeded
from mcp_server.plugins import Call, tool
from mcp_server.services.ingest import MOST_OBJECTS, Origin

MOST_SOURCES = 1000
_SHOWN_ERROR = 200


@with_config(ConfigDict(extra="forbid"))
class Source(TypedDict):
    text: NotRequired[str]
    object: NotRequired[Annotated[str, Field(description="BUCKET/KEY or file-… id")]]
    object_prefix: NotRequired[
        Annotated[str, Field(description="BUCKET/PREFIX: each object there")]
    ]
    url: NotRequired[str]
    document: NotRequired[Annotated[str, Field(description="id; by default the object or url")]]
    metadata: NotRequired[dict[str, Any]]
    content_type: NotRequired[str]


@with_config(ConfigDict(extra="forbid"))
class Chunking(TypedDict):
    max_tokens: Annotated[int, Field(description="64-8192, of o200k_base")]


class Ingested(TypedDict):
    """One document: `chunks` if it is in the store, `error` if it cannot be."""

    document: str
    chunks: NotRequired[int]
    error: NotRequired[str]


class Ingestion(TypedDict):
    store: str
    added: int
    failed: int
    documents: list[Ingested]


@tool(verb="write", long=True)
async def vector_ingest(
    call: Call,
    store: Annotated[str, Field(description="name or vs_… id")],
    sources: Annotated[list[Source], Field(description="each text, object, object_prefix or url")],
    chunking: Annotated[Chunking | None, Field(description="default: 128 words")] = None,
) -> Ingestion:
    """Index documents (pdf, docx, html, markdown, csv, json, code, text) in a run that survives restarts.

    One that cannot be read is reported and fails no other.
    """
    if not 0 < len(sources) <= MOST_SOURCES:
        raise InvalidInput(f"sources: give 1 to {MOST_SOURCES} of them", param="sources")
    max_tokens = chunking["max_tokens"] if chunking is not None else None
    documents: list[Ingested] = []
    everything = [
        one for number, source in enumerate(sources) for one in await _expand(call, number, source)
    ]
    if len(everything) > MOST_OBJECTS:
        raise LimitExceeded(
            f"sources: they are more than {MOST_OBJECTS} documents", param="sources"
        )
    for number, (origin, source) in enumerate(everything):
        ingest = _Ingest(call, store, origin, source, max_tokens, number, len(everything))
        documents.append(await call.step(f"document/{number}", ingest))
    failed = sum("error" in document for document in documents)
    return Ingestion(store=store, added=len(documents) - failed, failed=failed, documents=documents)


async def _expand(call: Call, number: int, source: Source) -> list[tuple[Origin, Source]]:
    """Return the documents of a source: one, or an object each; the same list whenever the run resumes."""
    prefix = source.get("object_prefix")
    kind = source.get("content_type")
    if prefix is None:
        origin = Origin(source.get("text"), source.get("object"), source.get("url"), kind)
        origin.check()
        return [(origin, source)]
    if source.keys() & {"text", "object", "url", "document"}:
        raise InvalidInput(
            "object_prefix: it stands for several documents; leave text, object, url and document out",
            param="sources",
        )

    async def find(_: str | None) -> list[str]:
        return await call.services.ingest.objects_under(call.principal, prefix)

    names: list[str] = await call.step(f"list/{number}", find)
    return [(Origin(object=name, content_type=kind), source) for name in names]


class _Ingest:
    """The step that puts one document into the store, or tells why it cannot."""

    def __init__(
        self,
        call: Call,
        store: str,
        origin: Origin,
        source: Source,
        max_tokens: int | None,
        number: int,
        total: int,
    ) -> None:
        self._call = call
        self._store = store
        self._origin = origin
        self._source = source
        self._max_tokens = max_tokens
        self._number, self._total = number, total
        self._document = source.get("document") or origin.document

    async def __call__(self, key: str | None) -> Ingested:
        call = self._call
        await call.progress(self._number, self._total, self._document)
        try:
            added = await call.services.ingest.add(
                call.principal,
                self._store,
                self._origin,
                document=self._document,
                metadata=self._source.get("metadata"),
                max_tokens=self._max_tokens,
                idempotency_key=key,
                progress=self._progress,
            )
        except AppError as error:
            # An engine that is away concerns the run, which waits for it; a page that is away only its document.
            if isinstance(error, LeaseLost) or (error.retryable and error.param is None):
                raise
            told = str(error)
            result = Ingested(document=self._document, error=told[:_SHOWN_ERROR])
        else:
            result = Ingested(document=added["document"], chunks=added["chunks"])
        await call.progress(self._number + 1, self._total, self._document)
        return result

    async def _progress(self, done: float, total: float | None, message: str | None) -> None:
        part = done / total if total else 0
        await self._call.progress(self._number + part, self._total, f"{self._document}: {message}")
