"""Where a bucket is and with which key: `s3://KEY:SECRET@HOST:PORT/BUCKET?secure=…&region=…&prefix=…`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

EXAMPLE = "s3://KEY:SECRET@HOST:9000/BUCKET?secure=false"
# Of old buckets too; a new one has no capitals, underscores and colons, which the server then says.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{1,61}[A-Za-z0-9]")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Address:
    """One bucket; `endpoint` is HOST[:PORT], `options` what else the query said. Shows no secret."""

    endpoint: str
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    secure: bool = True
    region: str | None = None
    prefix: str = ""
    options: tuple[tuple[str, str], ...] = ()


def parse_address(url: str, more: Collection[str] = ()) -> Address:
    """Return the parts of an `s3://` URL; percent-encoding is decoded in key, secret and prefix.

    `more` names further options that the query may hold.

    Raises:
        ValueError: says what is wrong with it, without the key and the secret.
    """
    parts = urlsplit(url)
    bucket = parts.path.strip("/")
    if parts.scheme != "s3" or not parts.hostname or not bucket or "/" in bucket:
        raise ValueError(f"the URL does not name a host and one bucket; give {EXAMPLE}")
    if not parts.username or not parts.password:
        raise ValueError(f"the URL has no key and secret; give {EXAMPLE}")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            f"{bucket!r} cannot be a bucket's name; give 3 to 63 of a-z, 0-9, . and - instead"
        )
    query = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(query)
    known = {"secure", "region", "prefix", *more}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"{unknown[0]!r} is no option of it; those are {', '.join(sorted(known))}")
    if len(given) < len(query):
        raise ValueError("an option stands twice in it; give each once")
    secure = _FLAGS.get(given.get("secure", "true").lower())
    if secure is None:
        raise ValueError(f"secure={given['secure']!r} is neither true nor false")
    return Address(
        endpoint=parts.netloc.rpartition("@")[2],
        bucket=bucket,
        access_key=unquote(parts.username),
        secret_key=unquote(parts.password),
        secure=secure,
        region=given.get("region") or None,
        prefix=given.get("prefix", ""),
        options=tuple((name, value) for name, value in query if name in more),
    )
