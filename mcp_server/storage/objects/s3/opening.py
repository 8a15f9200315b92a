"""Opening the blob store in a bucket: the bucket is made if absent, and a wrong address or key is told at once."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO
from urllib.parse import urlsplit

from minio.error import S3Error

from mcp_server.errors import ConfigurationError
from mcp_server.storage.objects import Opening
from mcp_server.storage.objects.s3.address import Address, parse_address
from mcp_server.storage.objects.s3.client import FAILURES, NO_SERVER, Client
from mcp_server.storage.objects.s3.links import LinkingS3Store
from mcp_server.storage.objects.s3.store import Place, S3Store
from mcp_server.storage.objects.s3.threads import Threads
from mcp_server.storage.objects.s3.upload import part_bytes

# One server of ours rarely has more to do at a time, and each is a connection to the store.
THREADS = 16
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}
_THERE_ALREADY = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


@asynccontextmanager
async def open_engine(opening: Opening) -> AsyncGenerator[S3Store]:
    """Open the bucket of `opening.url`; blobs stand under its prefix and the namespace.

    Raises:
        ConfigurationError: the URL is malformed, the server is not reachable, or it refuses the key.
    """
    address = _address(opening.url or "")
    client = Client(address, THREADS)
    threads = Threads(THREADS)
    try:
        place = Place(
            address.bucket,
            f"{address.prefix}{opening.namespace}/",
            part_bytes(opening.max_blob_bytes),
        )
        region = await threads.run(_reach, client, address, place)
        if opening.public_url is None:
            yield S3Store(client, threads, place)
        else:
            signer = Client(_public(address, opening.public_url), 1, region)
            yield LinkingS3Store(client, threads, place, signer)
    finally:
        await threads.close(client.interrupt)
        client.close()


def _address(url: str) -> Address:
    try:
        return parse_address(url)
    except ValueError as error:
        raise ConfigurationError(f"ISTHMUS_OBJECTS_URL: {error}") from error


def _public(address: Address, url: str) -> Address:
    """Return the same bucket as clients reach it: a signature holds for one host only."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise ConfigurationError(
            "ISTHMUS_OBJECTS_PUBLIC_URL: the URL must be a scheme and a host without a path; "
            "give for example https://objects.example.com"
        )
    return Address(
        endpoint=parts.netloc,
        bucket=address.bucket,
        access_key=address.access_key,
        secret_key=address.secret_key,
        secure=parts.scheme == "https",
    )


def _reach(client: Client, address: Address, place: Place) -> str:
    """Find or make the bucket, write a byte and delete it; return its region."""
    try:
        if not _exists(client, address.bucket):
            _make(client, address.bucket)
        # A name of its own: some servers fail who removes what another process has just removed.
        probe = place.name(f"opened-{secrets.token_hex(4)}")
        client.put_object(address.bucket, probe, BytesIO(b"1"), 1)
        client.remove_object(address.bucket, probe)
        return client.region_of(address.bucket)
    except FAILURES as error:
        raise ConfigurationError(f"ISTHMUS_OBJECTS_URL: {_reason(error, address)}") from error


def _exists(client: Client, bucket: str) -> bool:
    # A HEAD says only that something is forbidden; this says what.
    try:
        next(iter(client.list_objects(bucket, prefix="opened")), None)
    except S3Error as error:
        if error.code != "NoSuchBucket":
            raise
        return False
    return True


def _make(client: Client, bucket: str) -> None:
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        if error.code not in _THERE_ALREADY:  # another process was faster
            raise


def _reason(error: Exception, address: Address) -> str:
    if isinstance(error, S3Error) and error.code in _WRONG_KEY:
        return (
            f"{address.endpoint} refuses the key for bucket {address.bucket!r} ({error.code}); "
            "correct the key and the secret, or let the key read and write there"
        )
    if isinstance(error, S3Error):
        return (
            f"{address.endpoint} cannot serve bucket {address.bucket!r} ({error.code}); see its log"
        )
    if isinstance(error, NO_SERVER):
        return f"what answers at {address.endpoint} is no S3 server; correct the host and the port"
    return (
        f"no S3 server answers at {address.endpoint}; start it, or correct the host, the port "
        "and `secure`"
    )
