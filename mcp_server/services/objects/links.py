"""Links: short-lived rights to get or put one object without a key, each revocable at any moment."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Row, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Verb
from mcp_server.services.grants import ScopesNow, intersect
from mcp_server.services.objects import content
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.conditions import Condition, Every
from mcp_server.services.objects.drafts import WriteDraft
from mcp_server.services.objects.reads import Found
from mcp_server.services.objects.service import ObjectService
from mcp_server.services.objects.shapes import ObjectInfo
from mcp_server.storage.sql.object_tables import object_links
from mcp_server.timestamps import iso

Method = Literal["GET", "PUT"]
METHODS: tuple[Method, ...] = ("GET", "PUT")
VERBS: dict[Method, Verb] = {"GET": "read", "PUT": "write"}

DEFAULT_SECONDS, MOST_SECONDS = 300, 3600
LABELS = ("link",)
PATH = "/links/"

_MAKE = text(
    """
    insert into object_links (hash, tenant, subject, key_id, scopes, bucket, key, method,
        content_type, if_match, if_none_match, max_bytes, expires_at)
    values (:hash, :tenant, :subject, :key_id, :scopes, :bucket, :key, :method,
        :content_type, :if_match, :if_none_match, :max_bytes,
        now() + make_interval(secs => :seconds))
    returning expires_at
    """
)


class ObjectLink(TypedDict):
    """A link; whoever has the URL has the right. `expires_at` is ISO 8601 in UTC."""

    url: str
    method: Method
    expires_at: str


class LinksRevoked(TypedDict):
    revoked: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """A link that holds now, with the rights that its maker has now."""

    principal: Principal
    row: Row[Any]


class LinkService:
    """Makes links, and carries out what their bearers may do; `base_url` is where `/links/` is served."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        objects: ObjectService,
        scopes_now: ScopesNow,
        base_url: str,
    ) -> None:
        self._operation = operation
        self._control = control
        self._objects = objects
        self._scopes_now = scopes_now
        self._base_url = base_url.rstrip("/")

    async def make(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        method: str = "GET",
        ttl_seconds: float | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        max_bytes: int | None = None,
    ) -> ObjectLink:
        """Make a link to get an object as often as wanted, or to put it once.

        The last four are for PUT: what the upload is, what must be there, how large it may be.

        Raises:
            NotFound: there is no such object to get. InvalidInput: an argument does not fit.
        """
        at = self._objects.address(principal, bucket, key)
        method = _method(method)
        token = secrets.token_urlsafe(32)
        given = {
            "content_type": content_type,
            "if_match": if_match,
            "if_none_match": if_none_match,
            "max_bytes": max_bytes,
        }
        row = {
            "hash": _hash(token),
            **at.columns(),
            "subject": principal.subject,
            "key_id": principal.key_id,
            "scopes": sorted(principal.scopes),
            "method": method,
            "seconds": _seconds(ttl_seconds),
            **_upload_terms(at, method, given),
        }
        if method == "GET":
            await self._objects.find(principal, bucket, key, labels=LABELS)
        async with self._operation(principal, VERBS[method], at.uri, labels=LABELS):
            async with self._control.begin() as tx:
                expires_at = (await tx.execute(_MAKE, row)).scalar_one()
        return ObjectLink(
            url=f"{self._base_url}{PATH}{token}", method=method, expires_at=iso(expires_at)
        )

    async def revoke(
        self,
        principal: Principal,
        bucket: str,
        key: str,
        *,
        method: str = "GET",
        url: str | None = None,
    ) -> LinksRevoked:
        """End the caller's links to get or put an object, or one of them; return how many still held."""
        at = self._objects.address(principal, bucket, key)
        method = _method(method)
        own = (object_links.c.subject == principal.subject) & (object_links.c.method == method)
        query = delete(object_links).where(at.row(object_links), own)
        if url is not None:
            query = query.where(object_links.c.hash == _hash(url.rpartition("/")[2]))
        held = object_links.c.expires_at > func.now()
        async with self._operation(principal, VERBS[method], at.uri, labels=LABELS):
            async with self._control.begin() as tx:
                ended = (await tx.scalars(query.returning(held))).all()
        return LinksRevoked(revoked=sum(ended))

    async def redeem(self, token: str) -> Ticket:
        """Return what a token is good for.

        Raises:
            NotFound: there is no such link, it has ended, or its maker's key has.
        """
        here = object_links.c.hash == _hash(token)
        alive = object_links.c.expires_at > func.now()
        async with self._control.connect() as connection:
            row = (await connection.execute(select(object_links).where(here, alive))).first()
        if row is None:
            raise _ended()
        granted = Principal(row.tenant, row.subject, frozenset(row.scopes), row.key_id)
        scopes = await self._scopes_now(granted)
        if scopes is None:
            raise _ended()
        return Ticket(replace(granted, scopes=intersect(granted.scopes, scopes)), row)

    async def find(self, ticket: Ticket) -> Found:
        """Return the object of a link to get it.

        Raises:
            NotFound: there is no such object any more. Forbidden: the maker may not read it any more.
        """
        row = ticket.row
        return await self._objects.find(ticket.principal, row.bucket, row.key, labels=LABELS)

    async def put(
        self, ticket: Ticket, chunks: AsyncIterable[bytes], condition: Condition
    ) -> ObjectInfo:
        """Store what comes by a link to put it, which then has ended; a failed one can be tried again.

        `condition` is the request's own, beside that of the link.

        Raises:
            Conflict: the present object is not what a condition asks for.
            NotFound: the link was used or revoked meanwhile. Forbidden: the maker may not write any more.
        """
        row = ticket.row
        at = Address(row.tenant, row.bucket, row.key)
        both = Every((Condition(row.if_match, row.if_none_match), condition))
        stores, kind = self._objects.stores, row.content_type
        draft = _TicketDraft(stores, at, chunks, kind, condition=both, ticket=row.hash)
        return await self._objects.carry_out(ticket.principal, draft, labels=LABELS)


@dataclass(slots=True)
class _TicketDraft(WriteDraft):
    """A write that uses its link up in the same transaction."""

    ticket: bytes = b""

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        used = delete(object_links).where(object_links.c.hash == self.ticket)
        if (await tx.execute(used.returning(object_links.c.hash))).first() is None:
            raise _ended()
        return await WriteDraft.apply(self, tx, op)


def _method(given: str) -> Method:
    for method in METHODS:
        if given == method:
            return method
    raise InvalidInput(f"method: {given[:20]!r} is neither GET nor PUT", param="method")


def _seconds(given: float | None) -> float:
    if given is None:
        return DEFAULT_SECONDS
    if not 1 <= given <= MOST_SECONDS:
        raise InvalidInput(
            f"ttl_seconds: {given:g} is not within 1-{MOST_SECONDS}", param="ttl_seconds"
        )
    return given


def _upload_terms(at: Address, method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """Return what only a link to put has, checked."""
    if method == "GET":
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise InvalidInput(f"{named[0]}: only for a link to PUT; leave it out", param=named[0])
        return given
    most = given["max_bytes"]
    if most is not None and not 0 <= most < 2**63:
        raise InvalidInput(f"max_bytes: {most} is no number of bytes", param="max_bytes")
    kind = content.media_type(given["content_type"], at.key, is_text=False)
    return given | {"content_type": kind}


def _hash(token: str) -> bytes:
    # 256 random bits: a plain hash cannot be searched.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _ended() -> NotFound:
    return NotFound("this link does not exist, or has expired, was used or revoked")
