"""The parts of a unit of work: what a caller gives, as drafts, and what their writing answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import TypedDict

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput
from mcp_server.operation import Operation
from mcp_server.services.kv import KvService
from mcp_server.services.objects import ObjectService
from mcp_server.services.vectors import VectorService
from mcp_server.services.writes import Draft, Versioned

Section = Literal["keys", "objects", "documents"]
MOST_PARTS = 100

_STRICT = ConfigDict(extra="forbid")


class RowPart(TypedDict):
    """One SQL statement on the caller's own tables."""

    __pydantic_config__ = _STRICT  # pyright: ignore[reportGeneralTypeIssues]  pydantic's way to configure it
    sql: str
    params: NotRequired[list[Any] | None]


class KeyPart(TypedDict):
    """A key that gets a value, or is deleted."""

    __pydantic_config__ = _STRICT  # pyright: ignore[reportGeneralTypeIssues]  as above
    key: str
    namespace: NotRequired[str]
    value: NotRequired[Any]
    delete: NotRequired[bool]
    ttl_seconds: NotRequired[float | None]
    expected_version: NotRequired[int | None]


class ObjectPart(TypedDict):
    """An object that is stored, or deleted."""

    __pydantic_config__ = _STRICT  # pyright: ignore[reportGeneralTypeIssues]  as above
    key: str
    bucket: NotRequired[str]
    text: NotRequired[str | None]
    base64: NotRequired[str | None]
    content_type: NotRequired[str | None]
    delete: NotRequired[bool]
    if_match: NotRequired[str | None]
    if_none_match: NotRequired[str | None]


class DocumentPart(TypedDict):
    """A document that is indexed, or deleted."""

    __pydantic_config__ = _STRICT  # pyright: ignore[reportGeneralTypeIssues]  as above
    store: str
    document: str
    text: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any] | None]
    delete: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class UnitStores:
    """The stores whose writes may belong to a unit."""

    kv: KvService
    objects: ObjectService
    vectors: VectorService

    def of(self, section: Section) -> Versioned:
        stores: dict[Section, Versioned] = {
            "keys": self.kv,
            "objects": self.objects,
            "documents": self.vectors,
        }
        return stores[section]


@dataclass(frozen=True, slots=True)
class Part:
    """One draft, and where the caller gave it."""

    section: Section
    index: int
    draft: Draft


@dataclass(frozen=True, slots=True)
class OpenedPart:
    """A part whose operation is open."""

    part: Part
    operation: Operation

    async def apply(self, tx: AsyncConnection) -> dict[str, Any]:
        """Write it in `tx`; return its answer, without the value that the caller gave."""
        with located(self.part.section, self.part.index):
            answer = await self.part.draft.apply(tx, self.operation)
        return {name: item for name, item in answer.items() if name != "value"}


@contextmanager
def located(section: str, index: int) -> Generator[None]:
    """Let an error say which part it is about."""
    try:
        yield
    except AppError as error:
        error.message = f"{section}[{index}]: {error.message}"
        raise


async def drafts_of(
    stores: UnitStores,
    principal: Principal,
    keys: Sequence[KeyPart],
    objects: Sequence[ObjectPart],
    documents: Sequence[DocumentPart],
) -> list[Part]:
    """Return the drafts in the order in which they are applied: everybody locks in that order.

    Raises:
        InvalidInput: an argument does not fit, there are too many, or two name the same thing.
    """
    parts: list[Part] = []
    given: dict[Section, Sequence[Mapping[str, Any]]] = {
        "keys": keys,
        "objects": objects,
        "documents": documents,
    }
    for section, items in given.items():
        if len(items) > MOST_PARTS:
            raise InvalidInput(
                f"{section}: {len(items)} are more than the {MOST_PARTS} of one unit", param=section
            )
        for index, item in enumerate(items):
            with located(section, index):
                parts.append(Part(section, index, await _draft(stores, principal, section, item)))
    for uri, count in Counter(part.draft.uri for part in parts).items():
        if count > 1:
            raise InvalidInput(f"{uri} is given {count} times; give each thing once")
    return sorted(parts, key=lambda part: part.draft.uri)


async def _draft(
    stores: UnitStores, principal: Principal, section: Section, given: Mapping[str, Any]
) -> Draft:
    rest = dict(given)
    deletes = rest.pop("delete", False)
    match section:
        case "keys":
            at = (rest.pop("namespace", "default"), rest.pop("key"))
            _refuse_both(deletes, rest, "value")
            if at[0].startswith("cache/"):
                raise InvalidInput(
                    "namespace: what is in cache/ may be lost, so nothing can belong together with "
                    "it; use another",
                    param="namespace",
                )
            if deletes:
                return await stores.kv.draft_delete(principal, *at, **rest)
            return await stores.kv.draft_write(principal, *at, **rest)
        case "objects":
            at = (rest.pop("bucket", "default"), rest.pop("key"))
            if deletes:
                _refuse_both(deletes, rest, "text", "base64")
                return await stores.objects.draft_delete(principal, *at, **rest)
            return await stores.objects.draft_write(principal, *at, **rest)
        case "documents":
            at = (rest.pop("store"), rest.pop("document"))
            _refuse_both(deletes, rest, "text")
            if deletes:
                return await stores.vectors.draft_delete(principal, *at, **rest)
            text = rest.pop("text") or ""
            return await stores.vectors.draft_write(principal, at[0], text, document=at[1], **rest)


def _refuse_both(deletes: bool, given: Mapping[str, Any], *contents: str) -> None:
    """Refuse a part that deletes and writes, or does neither, or has a condition of the other."""
    allowed = {"expected_version", "if_match"}
    extra = sorted(name for name in given if name not in allowed and given[name] is not None)
    if deletes and extra:
        raise InvalidInput(f"{extra[0]}: it does not go with delete; leave one out", param=extra[0])
    if not deletes and not any(name in given for name in contents):
        raise InvalidInput(f"{contents[0]}: give it, or delete: true", param=contents[0])
