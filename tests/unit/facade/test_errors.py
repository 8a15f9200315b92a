"""The envelope of every error that the server knows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server import errors
from mcp_server.errors import AppError, LimitExceeded, NotFound
from mcp_server.llm import UpstreamError
from openai_facade.errors import defect, envelope, headers_of, render, status_of

KINDS = [
    each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AppError)
]
KEYS = {"message", "type", "param", "code"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_all_four_keys_and_its_own_status(kind: type[AppError]) -> None:
    error = kind("what is wrong", param="field")
    body = envelope(error)["error"]

    assert set(body) == KEYS
    assert (body["message"], body["param"]) == ("what is wrong", "field")
    assert body["type"]
    assert body["code"]
    assert status_of(error) == kind.status
    answer = render(error, {"type": "http"})
    assert answer.status_code == kind.status
    assert {"x-request-id", "openai-version"} <= set(answer.headers)


def test_an_unforeseen_error_tells_nothing_of_itself() -> None:
    assert set(defect()["error"]) == KEYS


def test_only_a_missing_model_is_a_model_that_is_not_found() -> None:
    assert envelope(NotFound("x", param="model"))["error"]["code"] == "model_not_found"
    assert envelope(NotFound("x", param="run"))["error"]["code"] == "not_found"


bodies = st.dictionaries(
    st.sampled_from(["message", "type", "param", "code", "details"]),
    st.one_of(st.none(), st.text(), st.integers(), st.dictionaries(st.text(), st.integers())),
)


@given(st.integers(400, 599), bodies)
def test_whatever_an_upstream_says_the_envelope_keeps_its_form(
    status: int, body: dict[str, Any]
) -> None:
    told = envelope(UpstreamError(status, body, upstream="u"))["error"]

    assert set(told) == KEYS
    assert isinstance(told["message"], str)
    assert isinstance(told["type"], str)
    assert isinstance(told["param"], str | None)
    assert isinstance(told["code"], str | None)


@pytest.mark.parametrize("status", [401, 402, 403, 407])
def test_what_an_upstream_says_of_our_key_stays_here(status: int) -> None:
    error = UpstreamError(status, {"message": "bad key sk-123"}, upstream="u")

    assert status_of(error) == 502
    assert "sk-123" not in str(envelope(error))


@pytest.mark.parametrize(
    ("wait", "seconds", "millis"), [(0.0, "1", "1"), (0.2, "1", "200"), (61.2, "62", "61200")]
)
def test_a_wait_is_told_in_both_units(wait: float, seconds: str, millis: str) -> None:
    told = dict(headers_of(LimitExceeded("slow down", retry_after=wait)))

    assert told == {b"retry-after": seconds.encode(), b"retry-after-ms": millis.encode()}


def test_where_waiting_does_not_help_the_client_is_told_not_to_retry() -> None:
    assert headers_of(LimitExceeded("no more")) == [(b"x-should-retry", b"false")]
