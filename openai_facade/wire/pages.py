"""Pages of lists: the arguments in a request's query, and the list object that answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from starlette.datastructures import QueryParams
from starlette.types import Scope

from openai_facade.wire.faults import InvalidRequest, invalid
from openai_facade.wire.fields import one_of

Order = Literal["asc", "desc"]

_DEFAULT_LIMIT = 20
_LARGEST_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Page:
    """What of a list is asked for: `limit` items in `order`, behind `after` or before `before` (ids)."""

    limit: int
    order: Order
    after: str | None
    before: str | None


def query_of(scope: Scope) -> QueryParams:
    """Give the parameters of a request's query; `getlist` has the repeated ones."""
    return QueryParams(scope["query_string"])


def page_arguments(
    query: Mapping[str, str],
    *,
    default: int = _DEFAULT_LIMIT,
    most: int = _LARGEST_LIMIT,
    order: Order = "desc",
) -> Page:
    """Read limit (1 to `most`), order, after and before; empty ones count as absent.

    Raises:
        InvalidRequest: a limit that is no whole number within its bounds, an unknown order, or both cursors.
    """
    asked = query.get("order") or order
    one_of(("asc", "desc"))("order", asked)
    after, before = query.get("after") or None, query.get("before") or None
    if after is not None and before is not None:
        raise invalid("before", "give either 'after' or 'before', not both.")
    limit = _limit(query.get("limit") or "", default, most)
    return Page(limit, cast("Order", asked), after, before)


def include_of(query: QueryParams) -> list[str]:
    """Give the values of `include`, which SDKs send with and without brackets."""
    return [*query.getlist("include"), *query.getlist("include[]")]


def list_object(
    items: Sequence[dict[str, Any]],
    has_more: bool,
    *,
    id_of: Callable[[dict[str, Any]], str] = lambda item: item["id"],
) -> dict[str, Any]:
    """Give the list object of one page; the ids of an empty one are empty strings.

    OpenAI's document demands strings for both; its own API answers null, which its schema refuses.
    """
    return {
        "object": "list",
        "data": list(items),
        "first_id": id_of(items[0]) if items else "",
        "last_id": id_of(items[-1]) if items else "",
        "has_more": has_more,
    }


def unknown_cursor(param: str, cursor: str) -> InvalidRequest:
    """The item that a page should begin behind (or end before) is not in the list."""
    return invalid(param, f"no item {cursor!r} in this list. Use an id that the list answered.")


def _limit(text: str, default: int, most: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        raise invalid("limit", f"expected a whole number from 1 to {most}, but got {text!r}.")
    limit = int(text)
    if not 1 <= limit <= most:
        raise invalid("limit", f"expected a whole number from 1 to {most}, but got {limit}.")
    return limit
