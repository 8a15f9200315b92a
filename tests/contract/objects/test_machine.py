"""Any sequence of writes, copies, uploads, undos and collections against a dictionary of versions, on every engine."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, func, select, union, update
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.audit import Audit
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Conflict, NotFound
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectService, uploads
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.services.objects.upload_rows import Upload
from mcp_server.services.objects.uploads import Terms, UploadService
from mcp_server.services.objects.versions import purge_versions
from mcp_server.services.writes import carry_out
from mcp_server.storage.objects import BlobStore
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.object_tables import (
    object_upload_parts,
    object_uploads,
    object_versions,
)
from mcp_server.storage.sql.schema import objects as manifest
from tests.conftest import make_tenant
from tests.contract.objects import places
from tests.contract.objects.places import PLACES, Opener
from tests.contract.objects.streams import stored
from tests.e2e.processes import LONG

PART = 700
DAYS = 7.0
MOST = 10_000

KEYS = st.sampled_from(["a", "b/c", "b/d", "é"])
BODIES = st.binary(max_size=2000)
TAGS = st.dictionaries(st.sampled_from("xyz"), st.text("ab", max_size=3), max_size=2)


@dataclass(frozen=True)
class Version:
    """What one version of an object is."""

    body: bytes
    tags: dict[str, str]

    @property
    def etag(self) -> str:
        return hashlib.md5(self.body).hexdigest()


@dataclass
class History:
    """All versions of one key that can be read, and which of them is the object."""

    versions: dict[int, Version] = field(default_factory=dict[int, Version])
    current: int | None = None

    @property
    def present(self) -> Version | None:
        return None if self.current is None else self.versions[self.current]


class World:
    """What lives in the portal's event loop."""

    def __init__(self, portal: BlockingPortal, control: AsyncEngine, blobs: BlobStore) -> None:
        self.portal = portal
        self.control = control
        self.blobs = blobs
        self.operations = Operations(Limits(), Audit())
        self.objects = ObjectService(self.operations, control, blobs, DAYS)
        self.uploads = UploadService(self.operations, control, self.objects, MOST)


class ObjectsAreVersions(RuleBasedStateMachine):
    """`histories` holds what the service must show."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.histories: dict[str, History] = {}
        self.who = self.run(make_tenant(self.world.control))
        self.pending: list[tuple[Upload, bytes, dict[str, str]]] = []

    def run(self, work: Any) -> Any:
        async def wait() -> Any:
            return await work

        return self.world.portal.call(wait)

    def history(self, key: str) -> History:
        return self.histories.setdefault(key, History())

    def wrote(self, key: str, version: Version) -> None:
        """Note what a write has made, and hold it against what is there."""
        stat = self.run(self.world.objects.stat(self.who, "m", key))
        assert (stat["etag"], stat["tags"]) == (version.etag, version.tags)
        assert stat["sha256"] == hashlib.sha256(version.body).hexdigest()
        history = self.history(key)
        assert stat["version"] not in history.versions
        history.versions[stat["version"]] = version
        history.current = stat["version"]

    @rule(key=KEYS, body=BODIES, tags=TAGS, condition=st.sampled_from(["", "*", "if", "if not"]))
    def put(self, key: str, body: bytes, tags: dict[str, str], condition: str) -> None:
        present = self.history(key).present
        etag = "0" * 32 if present is None else present.etag
        given: dict[str, Any] = {
            "": {},
            "*": {"if_none_match": "*"},
            "if": {"if_match": etag},
            "if not": {"if_none_match": etag},
        }[condition]
        refused = {
            "": False,
            "*": present is not None,
            "if": present is None,
            "if not": present is not None,
        }[condition]
        work = self.world.objects.put(self.who, "m", key, base64=_base64(body), tags=tags, **given)
        if refused:
            with pytest.raises(Conflict):
                self.run(work)
        else:
            self.run(work)
            self.wrote(key, Version(body, tags))

    @rule(key=KEYS, size=st.integers(0, 3))
    def put_that_breaks_off(self, key: str, size: int) -> None:
        async def broken() -> AsyncGenerator[bytes]:
            for _ in range(size):
                yield b"x" * 500
            raise Conflict("the client left")

        with pytest.raises(Conflict):
            self.run(self.world.objects.put_stream(self.who, "m", key, broken()))

    @rule(key=KEYS, to_key=KEYS, choice=st.floats(0, 1), guarded=st.booleans())
    def copy(self, key: str, to_key: str, choice: float, *, guarded: bool) -> None:
        history = self.history(key)
        version = _chosen(sorted(history.versions), choice)
        source = history.present if version is None else history.versions[version]
        present = self.history(to_key).present
        work = self.world.objects.copy(
            *(self.who, "m", key, "m", to_key),
            version=version,
            if_none_match="*" if guarded else None,
        )
        if source is None or (guarded and present is not None):
            with pytest.raises((NotFound, Conflict)):
                self.run(work)
        else:
            self.run(work)
            self.wrote(to_key, source)

    @rule(key=KEYS, tags=TAGS)
    def tag(self, key: str, tags: dict[str, str]) -> None:
        present = self.history(key).present
        work = self.world.objects.tag(self.who, "m", key, tags=tags)
        if present is None:
            with pytest.raises(NotFound):
                self.run(work)
        else:
            self.run(work)
            self.wrote(key, Version(present.body, tags))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        history = self.history(key)
        answer = self.run(self.world.objects.delete(self.who, "m", key))
        assert answer == {"deleted": history.current is not None}
        history.current = None

    @rule(key=KEYS, choice=st.floats(0, 1), stale=st.booleans())
    def restore(self, key: str, choice: float, *, stale: bool) -> None:
        history = self.history(key)
        earlier = [version for version in sorted(history.versions) if version != history.current]
        version = _chosen(earlier, choice)
        expected = (history.current or 0) + stale
        if stale:
            with pytest.raises(Conflict, match="changed since"):
                self.run(self._restore(key, version, expected))
        elif version is None:
            answer = self.run(self._restore(key, None, expected))
            assert answer == {"deleted": history.current is not None}
            history.current = None
        else:
            self.run(self._restore(key, version, expected))
            self.wrote(key, history.versions[version])

    async def _restore(self, key: str, version: int | None, expected: int) -> dict[str, Any]:
        world = self.world
        draft = await world.objects.draft_restore(self.who, f"object://m/{key}", version, expected)
        async with world.operations(self.who, "write", draft.uri) as op:
            return await carry_out(world.control, op, draft)

    @rule(key=KEYS, body=BODIES, tags=TAGS)
    def begin_upload(self, key: str, body: bytes, tags: dict[str, str]) -> None:
        work = self.world.uploads.create(self.who, "m", key, len(body), Terms(tags=tags))
        upload = self.run(work)
        if body:
            self.pending.append((upload, body, tags))
        else:
            self.wrote(key, Version(body, tags))

    @precondition(lambda self: self.pending)
    @rule(size=st.integers(1, 1500), broken=st.booleans())
    def go_on_with_an_upload(self, size: int, *, broken: bool) -> None:
        upload, body, tags = self.pending.pop(0)
        chunk = body[upload.received : upload.received + size]
        work = self._append(upload, chunk, broken=broken)
        upload = self.run(work)
        assert upload.received <= len(body)
        if upload.completed is None:
            self.pending.append((upload, body, tags))
        else:
            self.wrote(upload.at.key, Version(body, tags))

    async def _append(self, upload: Upload, chunk: bytes, *, broken: bool) -> Upload:
        """Send a chunk; a broken one ends in the middle, and what came of it is kept."""
        middle = len(chunk) // 2
        sent = chunk[:middle] if broken else chunk

        async def chunks() -> AsyncGenerator[bytes]:
            if sent:
                yield sent
            if broken:
                raise AppError("the client left")

        try:
            await self.world.uploads.append(self.who, upload.id, upload.received, chunks())
        except AppError:
            assert broken
        now = await self.world.uploads.find(self.who, upload.id)
        assert now.received == upload.received + len(sent)
        return now

    @precondition(lambda self: self.pending)
    @rule()
    def give_an_upload_up(self) -> None:
        upload, _, _ = self.pending.pop()
        self.run(self.world.uploads.end(self.who, upload.id))

    @rule(key=KEYS, choice=st.floats(0, 1))
    def read(self, key: str, choice: float) -> None:
        history = self.history(key)
        version = _chosen(sorted(history.versions), choice)
        wanted = history.present if version is None else history.versions[version]
        work = self.world.objects.get(self.who, "m", key, version=version)
        if wanted is None:
            with pytest.raises(NotFound):
                self.run(work)
        else:
            got = self.run(work)
            assert got["etag"] == wanted.etag
            assert got["base64"] == _base64(wanted.body)

    @rule()
    def purge(self) -> None:
        self.run(self._purge())
        for history in self.histories.values():
            history.versions = {
                version: kept
                for version, kept in history.versions.items()
                if version == history.current
            }

    async def _purge(self) -> None:
        long_ago = func.now() - timedelta(days=DAYS + 1)
        mine = object_versions.c.tenant == self.who.tenant
        async with self.world.control.begin() as tx:
            await tx.execute(update(object_versions).where(mine).values(replaced_at=long_ago))
        await purge_versions(self.world.control, DAYS)

    @rule()
    def collect(self) -> None:
        """After a collection there is exactly what a row names."""
        self.run(collect(self.world))
        kept = self.run(stored(self.world.blobs))
        assert kept == self.run(named(self.world, self.who))
        bodies = {
            version.etag
            for history in self.histories.values()
            for version in history.versions.values()
        }
        # A copy shares its source's blob; equal bytes that were put twice are stored twice.
        parts = sum(1 for upload, _, _ in self.pending if upload.received)
        assert len(kept) >= len(bodies) + parts

    @invariant()
    def lists_show_what_is_there(self) -> None:
        page = self.run(self.world.objects.list(self.who, "m"))
        shown = {item["key"]: item["etag"] for item in page["items"]}
        assert shown == {
            key: history.present.etag
            for key, history in self.histories.items()
            if history.present is not None
        }
        for key, history in self.histories.items():
            if history.versions:
                found = self.run(self.world.objects.versions(self.who, "m", key))
                seen = [item["version"] for item in found["items"]]
                assert seen == sorted(history.versions, reverse=True)

    def teardown(self) -> None:
        self.run(self._forget())
        self.run(collect(self.world))
        assert self.run(stored(self.world.blobs)) == set()

    async def _forget(self) -> None:
        for upload, _, _ in self.pending:
            await self.world.uploads.end(self.who, upload.id)
        async with self.world.control.begin() as tx:
            for table in (manifest, object_versions):
                await tx.execute(delete(table).where(table.c.tenant == self.who.tenant))


async def collect(world: World) -> None:
    await sweep_orphans(world.control, world.blobs, timedelta(seconds=-60))
    await collect_garbage(world.control, world.blobs, timedelta(0))


async def named(world: World, who: Principal) -> set[str]:
    parts = object_upload_parts
    mine = parts.c.upload == object_uploads.c.id
    query = union(
        select(manifest.c.blob).where(manifest.c.tenant == who.tenant),
        select(object_versions.c.blob).where(object_versions.c.tenant == who.tenant),
        select(parts.c.blob)
        .join(object_uploads, mine)
        .where(object_uploads.c.tenant == who.tenant),
    )
    async with world.control.connect() as connection:
        return set((await connection.scalars(query)).all())


def _chosen(versions: Sequence[int], choice: float) -> int | None:
    """Return one of the versions, or None for the present one."""
    place = round(choice * len(versions))
    return None if place == len(versions) else versions[place]


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()


@contextmanager
def opened(cluster: Cluster, blobs: Opener) -> Iterator[type[ObjectsAreVersions]]:
    """Give a machine whose engines live in an event loop of their own."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio", {"use_uvloop": True}))
        control = stack.enter_context(
            portal.wrap_async_context_manager(open_control(cluster.control_url))
        )
        store = stack.enter_context(portal.wrap_async_context_manager(blobs()))
        world = World(portal, control, store)
        yield type("Machine", (ObjectsAreVersions,), {"world": world})


@pytest.fixture(params=PLACES)
def blobs_of(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    return places.opener(places.url_of(request), tmp_path / "objects", secrets.token_hex(8))


def test_objects_are_versions_over_blobs(
    cluster: Cluster, blobs_of: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    with opened(cluster, blobs_of) as machine:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=100 if LONG else 4,
                stateful_step_count=50 if LONG else 20,
                deadline=None,
                derandomize=True,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
