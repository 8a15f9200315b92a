"""A page of a bucket: keys in byte order, those with a common prefix folded into one item."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import InvalidInput

# Each step looks up the next key from `bound` on. After a folded key the bound is past everything that
# folds with it, so a page costs as many index lookups as it has items, however many keys it folds or
# the caller may not see. chr(1) stands below every character that a key may hold.
_PAGE = text(
    """
    with recursive walk (n, key, id, size, etag, content_type, common, bound) as (
        select 0, cast(null as text) collate "C", cast(null as text), cast(null as bigint),
            cast(null as text), cast(null as text), cast(null as text) collate "C",
            cast(:start as text) collate "C"
        union all
        select walk.n + 1, found.key, found.id, found.size, found.etag, found.content_type,
            left(found.key, found.folded - 1) || cast(:delimiter as text),
            case when found.folded > 0
                then left(found.key, found.folded - 1) || cast(:after_delimiter as text)
                else found.key || chr(1) end
        from walk cross join lateral (
            select first.* from
                unnest(cast(:lows as text[]), cast(:highs as text[])) as span (low, high),
                lateral (
                    select key, id, size, etag, content_type,
                        case when strpos(substr(key, :skip), cast(:delimiter as text)) > 0
                            then :skip - 1 + strpos(substr(key, :skip), cast(:delimiter as text))
                        end as folded
                    from objects
                    where tenant = :tenant and bucket = :bucket
                        and (expires_at is null or expires_at > now())
                        and key >= greatest(span.low collate "C", walk.bound)
                        and (span.high is null or key < span.high)
                    order by key
                    limit 1
                ) as first
            order by first.key
            limit 1
        ) as found
        where walk.n < :count
    )
    select cast(:bucket as text) as bucket, key, id, size, etag, content_type, common, bound
    from walk where n > 0 order by n
    """
)


@dataclass(frozen=True, slots=True)
class Listing:
    """What is asked for; `visible` holds the prefixes that the caller may see, None for all."""

    tenant: str
    bucket: str
    prefix: str
    delimiter: str | None
    after: str | None
    visible: tuple[str, ...] | None

    async def rows(self, control: AsyncEngine, count: int) -> list[Row[Any]]:
        """Return up to `count` rows: `common` is the common prefix of a folded one, else None.

        `bound` is where the next page begins.

        Raises:
            InvalidInput: the delimiter cannot be one.
        """
        spans = self._spans()
        given = {
            "tenant": self.tenant,
            "bucket": self.bucket,
            "start": self.after or "",
            "lows": spans,
            "highs": [successor(low) for low in spans],
            "skip": len(self.prefix) + 1,
            "delimiter": self.delimiter,
            "after_delimiter": self._after_delimiter(),
            "count": count,
        }
        async with control.connect() as connection:
            return list((await connection.execute(_PAGE, given)).all())

    def _spans(self) -> list[str]:
        """Return the prefixes under which keys are both asked for and visible."""
        if self.visible is None or self.prefix.startswith(self.visible):
            return [self.prefix]
        return [shown for shown in self.visible if shown.startswith(self.prefix)]

    def _after_delimiter(self) -> str | None:
        if self.delimiter is None:
            return None
        after = successor(self.delimiter)
        if after is None:
            raise InvalidInput("delimiter: U+10FFFF cannot be one; give for example /")
        return after


def successor(prefix: str) -> str | None:
    """Return the first string after all that begin with `prefix`, in order of code points.

    That is UTF-8's byte order too. None if there is no such string, as for the empty prefix.
    """
    rest = prefix.rstrip(chr(sys.maxunicode))
    if not rest:
        return None
    following = ord(rest[-1]) + 1
    return rest[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
