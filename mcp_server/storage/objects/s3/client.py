"""The `minio` client as this server uses it: bounded waiting, few retries, and the multipart calls by name."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from weakref import WeakSet
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

import urllib3
from minio import Minio
from minio.datatypes import CompleteMultipartUploadResult, Object, Part, parse_list_objects
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout

from mcp_server.storage.objects.s3.address import Address

# It warns of each retry and each connection beyond its pool, with addresses; errors are told once, by us.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

CONNECT_SECONDS = 5.0
# Between two bytes that arrive, and for sending one part.
SILENCE_SECONDS = 30.0
# At once, and again after 0.4 s: what a restart of the server needs longer for is told.
RETRIES = 2
_BUSY = (
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
UPLOADS_AT_ONCE = 1000
_DEFAULT_REGION = "us-east-1"
_BINARY = {"Content-Type": "application/octet-stream"}
# What its calls raise when the server refuses, is away, or is none; what answers no XML is none.
NO_SERVER = (InvalidResponseError, ParseError, ValueError)
FAILURES = (MinioException, HTTPError, OSError, *NO_SERVER)


class Sockets:
    """The open connections of one client: whoever ends it need not wait for a server that is silent."""

    def __init__(self) -> None:
        self._open: WeakSet[socket.socket] = WeakSet()
        self._over = False

    def add(self, opened: socket.socket) -> None:
        # Else the time to connect would bound the sending of the first request too, a whole part.
        opened.settimeout(SILENCE_SECONDS)
        self._open.add(opened)
        if self._over:
            self.interrupt()

    def interrupt(self) -> None:
        """Let every call fail that is in progress, and every later one."""
        self._over = True
        for opened in list(self._open):
            with contextlib.suppress(OSError):  # closed already
                opened.shutdown(socket.SHUT_RDWR)

    def pools(self) -> dict[str, type[urllib3.HTTPConnectionPool]]:
        """Return the classes of connection pools, by scheme, whose connections are added here."""
        add = self.add

        class Connection(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                add(self.sock)

        class SecureConnection(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                if self.sock is not None:
                    add(self.sock)

        class Pool(urllib3.HTTPConnectionPool):
            ConnectionCls = Connection  # pyright: ignore[reportAssignmentType] - as urllib3's own are

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = SecureConnection  # pyright: ignore[reportAssignmentType]

        return {"http": Pool, "https": SecurePool}


class Client(Minio):
    """Blocks; may be used by many threads. Raises what `minio` and `urllib3` raise."""

    def __init__(self, address: Address, connections: int, region: str | None = None) -> None:
        pool = urllib3.PoolManager(
            maxsize=connections,
            cert_reqs="CERT_REQUIRED",
            timeout=Timeout(connect=CONNECT_SECONDS, read=SILENCE_SECONDS),
            retries=Retry(
                total=RETRIES,
                read=1,
                redirect=False,
                status_forcelist=_BUSY,
                backoff_factor=0.2,
                raise_on_status=False,
                respect_retry_after_header=False,
            ),
        )
        self._sockets = Sockets()
        pool.pool_classes_by_scheme = self._sockets.pools()
        super().__init__(
            address.endpoint,
            address.access_key,
            address.secret_key,
            secure=address.secure,
            region=region or address.region,
            http_client=pool,
        )

    def region_of(self, bucket: str) -> str:
        return self._get_region(bucket) or _DEFAULT_REGION

    def interrupt(self) -> None:
        """Let every call fail that is in progress, and every later one."""
        self._sockets.interrupt()

    def close(self) -> None:
        self._http.clear()

    def put(self, bucket: str, name: str, body: bytes, headers: Mapping[str, str]) -> str:
        """Store an object of at most 5 GiB in one request; return its ETag."""
        return self._put_object(bucket, name, body, {**_BINARY, **headers}).etag or ""

    def begin(self, bucket: str, name: str, headers: Mapping[str, str]) -> str:
        """Begin a multipart upload and return its id."""
        return self._create_multipart_upload(bucket, name, {**_BINARY, **headers})

    def send_part(self, bucket: str, name: str, upload: str, number: int, body: bytes) -> Part:
        return Part(number, self._upload_part(bucket, name, body, None, upload, number))

    def complete(
        self,
        bucket: str,
        name: str,
        upload: str,
        parts: Sequence[Part],
        headers: Mapping[str, str],
    ) -> str:
        """Make the parts, in their order, one object; return its ETag.

        Raises:
            ServerError: the server began to say yes, and then said something else, as AWS may.
        """
        root = Element("CompleteMultipartUpload")
        for part in parts:
            entry = SubElement(root, "Part")
            SubElement(entry, "PartNumber").text = str(part.part_number)
            SubElement(entry, "ETag").text = f'"{part.etag}"'
        body = tostring(root)
        given = {"Content-Type": "application/xml", **headers}
        answer = self._execute(
            "POST", bucket, name, body=body, headers={**given}, query_params={"uploadId": upload}
        )
        done = CompleteMultipartUploadResult(answer)
        if not done.etag:
            raise ServerError("the upload was not completed", HTTPStatus.OK)
        return done.etag

    def delete(self, bucket: str, name: str, headers: Mapping[str, str]) -> None:
        self._execute("DELETE", bucket, name, headers={**headers})

    def page(
        self, bucket: str, prefix: str, delimiter: str | None, limit: int, token: str | None
    ) -> tuple[list[Object], str | None]:
        """Return up to `limit` objects and common prefixes, and the token of the next page if there is one."""
        query = {
            "list-type": "2",
            "prefix": prefix,
            "max-keys": str(limit),
            "encoding-type": "url",
            **({"delimiter": delimiter} if delimiter else {}),
            **({"continuation-token": token} if token else {}),
        }
        answer = self._execute("GET", bucket, query_params={**query})
        found, more, following, _ = parse_list_objects(answer)
        return found, following if more else None

    def abort(self, bucket: str, key: str, upload: str) -> None:
        """Drop an upload; that it is gone already is success."""
        try:
            self._abort_multipart_upload(bucket, key, upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise

    def abort_stale(
        self, bucket: str, prefix: str, before: datetime, living: frozenset[str]
    ) -> int:
        """Abort the uploads under `prefix` in which nothing moved since `before`; return how many."""
        marker: str | None = None
        aborted = 0
        while True:
            page = self._list_multipart_uploads(
                bucket, prefix=prefix, key_marker=marker, max_uploads=UPLOADS_AT_ONCE
            )
            gone = 0
            for found in page.uploads:
                upload, begun = found.upload_id or "", found.initiated_time
                if upload in living or begun is None or begun >= before:
                    continue
                if not self._moved_since(bucket, found.object_name, upload, before):
                    self.abort(bucket, found.object_name, upload)
                    gone += 1
            aborted += gone
            # Not every server says that there are more: from where some went the next ones come.
            if gone:
                continue
            if not page.is_truncated or not page.next_key_marker:
                return aborted
            marker = page.next_key_marker

    def _moved_since(self, bucket: str, key: str, upload: str, before: datetime) -> bool:
        marker: str | None = None
        while True:
            try:
                page = self._list_parts(bucket, key, upload, part_number_marker=marker)
            except S3Error as error:
                if error.code == "NoSuchUpload":  # completed or aborted this moment
                    return True
                raise
            if any(part.last_modified and part.last_modified >= before for part in page.parts):
                return True
            if not page.is_truncated or not page.next_part_number_marker:
                return False
            marker = page.next_part_number_marker
