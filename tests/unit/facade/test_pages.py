"""Pages of lists under /v1: arguments and answers."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from openai_facade.wire.faults import InvalidRequest
from openai_facade.wire.pages import Page, include_of, list_object, page_arguments, unknown_cursor


def test_a_query_without_arguments_asks_for_the_newest_twenty() -> None:
    assert page_arguments({}) == Page(20, "desc", None, None)
    assert page_arguments({"limit": "", "order": "", "after": ""}) == Page(20, "desc", None, None)


def test_arguments_are_taken_as_given() -> None:
    query = QueryParams("limit=100&order=asc&after=msg_1")
    assert page_arguments(query) == Page(100, "asc", "msg_1", None)
    assert page_arguments({"before": "msg_2"}).before == "msg_2"
    assert page_arguments({}, default=10_000, most=10_000).limit == 10_000


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.5", "ten", "²", "9" * 400, " 5"])
def test_a_limit_out_of_bounds_is_refused_by_name(limit: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_arguments({"limit": limit})
    assert refused.value.param == "limit"
    assert "100" in refused.value.message


def test_unknown_orders_and_contradicting_cursors_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="asc"):
        page_arguments({"order": "up"})
    with pytest.raises(InvalidRequest, match="either 'after' or 'before'"):
        page_arguments({"after": "a", "before": "b"})


def test_a_list_tells_its_first_and_last_id() -> None:
    page = list_object([{"id": "a"}, {"id": "b"}], has_more=True)
    assert page == {
        "object": "list",
        "data": [{"id": "a"}, {"id": "b"}],
        "first_id": "a",
        "last_id": "b",
        "has_more": True,
    }
    assert list_object([], has_more=False)["last_id"] == ""


def test_includes_come_with_and_without_brackets() -> None:
    assert include_of(QueryParams("include=a&include[]=b&include[]=c")) == ["a", "b", "c"]


def test_an_unknown_cursor_is_a_bad_request_of_that_parameter() -> None:
    error = unknown_cursor("after", "msg_x")
    assert (error.status, error.param) == (400, "after")
