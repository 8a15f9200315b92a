"""The check of traffic catches what does not fit, wherever it stands, and lets pass what does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.traffic.check import check, path_template
from tests.traffic.recording import Exchange

ERROR = {"error": {"message": "no", "type": "server_error", "param": None, "code": None}}
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}
    ],
}
END = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
MODEL = {"id": "a/b", "object": "model", "created": 1, "owned_by": "us"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def exchange(path: str, answer: Any, request: Any = None, status: int = 200) -> Exchange:
    """Return an exchange of JSON, or of a stream if the answer is a list of events."""
    streamed = isinstance(answer, list)
    raw = (
        "".join(
            f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n" for each in answer
        )
        if streamed
        else json.dumps(answer)
    )
    kind = "text/event-stream" if streamed else "application/json"
    method = "GET" if request is None else "POST"
    asked = b"" if request is None else json.dumps(request).encode()
    return Exchange(method, f"/v1{path}", "application/json", asked, status, kind, raw.encode())


@pytest.mark.parametrize(
    "fit",
    [
        exchange("/models/a/b", MODEL),
        exchange("/models/a", ERROR, status=404),
        exchange("/chat/completions", [CHUNK, END, "[DONE]"], CHAT),
        exchange("/chat/completions", [CHUNK, ERROR], CHAT),
    ],
)
def test_what_fits_passes(fit: Exchange) -> None:
    assert check(fit).faults == []


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (exchange("/models/a", MODEL | {"created": "now"}), "created"),
        (exchange("/models/a", {"error": {"message": "no", "type": "x"}}, status=404), "param"),
        (exchange("/models/a", "down", status=500), "error"),
        (exchange("/nothing", MODEL), "not in the document"),
        (exchange("/chat/completions", [CHUNK, END, "[DONE]"], CHAT | {"n": "two"}), "request n"),
        (exchange("/chat/completions", [CHUNK, END], CHAT), "neither"),
        (exchange("/chat/completions", [CHUNK, "[DONE]"], CHAT), "finish_reason"),
        (exchange("/chat/completions", [CHUNK, END | {"id": "x"}, "[DONE]"], CHAT), "id changes"),
        (exchange("/chat/completions", [CHUNK | {"model": 1}, END, "[DONE]"], CHAT), "model"),
        (exchange("/chat/completions", [END, END, "[DONE]"], CHAT), "role"),
        (exchange("/chat/completions", [CHUNK, {"error": "bad"}], CHAT), "error"),
        (exchange("/responses/resp_1", [{"type": "response.queued"}]), "response"),
    ],
)
def test_a_planted_defect_is_caught(planted: Exchange, told: str) -> None:
    assert told in " ".join(check(planted).faults)


def test_an_extension_is_taken_out_and_counted() -> None:
    asked = CHAT | {"tools": [{"type": "mcp", "server_label": "isthmus"}]}
    finding = check(exchange("/chat/completions", [CHUNK, END, "[DONE]"], asked))
    assert (finding.faults, finding.removed) == ([], ["mcp tools in chat"])


def test_paths_are_known_by_their_templates() -> None:
    assert path_template("GET", "/v1/responses/resp_1?stream=true") == "/responses/{response_id}"
    assert path_template("PATCH", "/v1/responses/resp_1") is None


def test_a_function_of_a_response_may_leave_out_strict() -> None:
    function = {"type": "function", "name": "add", "parameters": {"type": "object"}}
    asked = {"model": "m", "input": "hi", "tools": [function]}
    finding = check(exchange("/responses", {}, asked))
    assert finding.removed == ["functions of responses without strict"]
    assert not [fault for fault in finding.faults if fault.startswith("request")]
    wrong = asked | {"tools": [function | {"name": 5}]}
    assert [f for f in check(exchange("/responses", {}, wrong)).faults if f.startswith("request")]
