"""Existing buckets on every S3 server that the tests have."""

from __future__ import annotations

import io
import uuid
from collections.abc import AsyncIterator

import minio
import pytest

from mcp_server.storage.buckets import Bucket, open_buckets
from tests.servers.s3 import S3Server


@pytest.fixture(params=["juicefs", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
def existing(server: S3Server) -> str:
    """The server's name of a bucket that others made."""
    name = f"others-{uuid.uuid4().hex[:12]}"
    server.client().make_bucket(name)
    return name


@pytest.fixture
def bare(server: S3Server) -> minio.Minio:
    return server.client()


def write(bare: minio.Minio, bucket: str, key: str, body: bytes) -> None:
    """Store an object as others do."""
    bare.put_object(bucket, key, io.BytesIO(body), len(body), content_type="text/plain")


@pytest.fixture
async def bucket(server: S3Server, existing: str) -> AsyncIterator[Bucket]:
    async with open_buckets([f"theirs={server.url(existing, mode='rw')}"]) as buckets:
        yield buckets["theirs"]
