"""Values that fit JSON and nothing else: whatever a client writes into a request, no answer is the server's defect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.doors.live import Live, http_client, open_live

NUL = "a\0b"
SAID: Any = {"role": "user", "content": "hello"}
DEEP = '{"a":' * 50_000
OURS: Any = {"type": "mcp", "server_label": "isthmus"}
FAR: Any = {
    "type": "mcp",
    "server_label": "far",
    "server_url": "http://127.0.0.1:9/mcp",
    "require_approval": "never",
}


@pytest.fixture(scope="module")
async def live(scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "hostile", llm_url=("scripted:",)) as live:
        yield live


@pytest.fixture
async def http(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(live.headers) as http:
        http.base_url = f"{live.url}/v1"
        yield http


def call(**more: Any) -> dict[str, Any]:
    """Give an input that goes on from a call which a client tells of."""
    told = {
        "type": "mcp_call",
        "id": "mcp_1",
        "server_label": "far",
        "name": "x",
        "arguments": "{}",
    }
    return {"input": [SAID, told | more, SAID]}


def listing(**more: Any) -> dict[str, Any]:
    """Give an input in which a client tells what a server elsewhere listed."""
    tool = {"name": "x", "input_schema": {}} | more
    told = {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "far", "tools": [tool]}
    return {"input": [SAID, told], "tools": [FAR]}


def shown(kind: str, **more: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": kind} | more]}]}


def found(**more: Any) -> dict[str, Any]:
    told = {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": [more]}
    return {"input": [SAID, told, SAID]}


def approved(arguments: str, **more: Any) -> dict[str, Any]:
    """Give an input in which a client tells that it was asked, and allows it."""
    asked = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "isthmus"}
    allowed = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    asked |= {"name": "kv_get", "arguments": arguments}
    return {"input": [asked, allowed], "tools": [OURS]} | more


RESPONSES: dict[str, dict[str, Any]] = {
    "approved arguments of great depth": approved("[" * 100_000),
    "approved arguments that are none": approved("\\ud800"),
    "NUL in the text": {"input": NUL},
    "NUL in an item's id": {"input": [SAID | {"id": NUL}]},
    "NUL in metadata": {"input": "a", "metadata": {NUL: NUL}},
    "NUL in the chain": {"input": "a", "previous_response_id": NUL},
    "NUL in the conversation": {"input": "a", "conversation": NUL},
    "NUL in a reference": {"input": [{"type": "item_reference", "id": NUL}]},
    "NUL in the model": {"input": "a", "model": NUL},
    "a long id": {"input": [SAID | {"id": "x" * 20_000}]},
    "error a number": call(error=5),
    "error a list": call(error=[1]),
    "error of parts that are none": call(error={"content": [5]}),
    "output an object": call(output={"a": 1}),
    "hints a text": listing(annotations="x"),
    "description a number": listing(description=5),
    "schema a text": listing(input_schema="x"),
    "schema a list": listing(input_schema=[1]),
    "file id an object": shown("input_image", image_url="data:image/png;base64,", file_id={"a": 1}),
    "file URL a number": shown("input_file", file_data="data:text/plain;base64,", file_url=5),
    "file name a number": shown("input_file", file_data="data:text/plain;base64,", filename=5),
    "detail a list": shown("input_image", image_url="data:image/png;base64,AA==", detail=[5]),
    "found in no file": found(file_id={"a": 1}, filename=[1], text=5),
    "the schema's name a NUL": {
        "input": "a",
        "text": {"format": {"type": "json_schema", "name": NUL, "schema": {"type": NUL}}},
    },
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", RESPONSES)
async def test_no_body_of_a_response_is_a_defect(
    http: httpx2.AsyncClient, name: str, stream: bool
) -> None:
    body = {"model": "scripted", "stream": stream} | RESPONSES[name]
    answer = await http.post("/responses", json=body)
    assert answer.status_code < 500, answer.text
    assert "server_error" not in answer.text
    if answer.status_code == 200 and not stream:
        again = await http.get(f"/responses/{answer.json()['id']}")
        assert again.json() == answer.json()


CHATS: dict[str, dict[str, Any]] = {
    "NUL in the text": {"messages": [SAID | {"content": NUL}], "store": True},
    "NUL in metadata": {"store": True, "metadata": {NUL: NUL}},
    "NUL in the model": {"model": NUL, "store": True},
    "a long model": {"model": "m" * 50_000},
    "NUL in an agent": {"model": f"agent/{NUL}"},
    "labels of NUL": {"metadata": {"mcp_servers": NUL}},
    "file URL a number": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "file", "file": {"file_data": "data:,", "file_url": 5}}],
            }
        ]
    },
    "file id with NUL": {
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": NUL}}]}]
    },
    "image id with NUL": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"file_id": NUL}}]}
        ]
    },
    "URL with NUL": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"http://{NUL}"}}],
            }
        ]
    },
    "kept turn of nobody": {
        "messages": [
            SAID,
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": f"call_kept_{'0' * 24}_0",
                        "type": "function",
                        "function": {"name": "x", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": f"call_kept_{'0' * 24}_0", "content": NUL},
        ]
    },
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CHATS)
async def test_no_body_of_a_chat_is_a_defect(
    http: httpx2.AsyncClient, name: str, stream: bool
) -> None:
    body = {"model": "scripted", "messages": [SAID], "stream": stream} | CHATS[name]
    answer = await http.post("/chat/completions", json=body)
    assert answer.status_code < 500, answer.text
    assert "server_error" not in answer.text


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "conversation, NUL in metadata": ("/conversations", {"metadata": {NUL: NUL}}),
    "conversation, NUL in a text": ("/conversations", {"items": [SAID | {"content": NUL}]}),
    "conversation, NUL in an id": ("/conversations", {"items": [SAID | {"id": NUL}]}),
    "completion": ("/completions", {"model": "scripted", "prompt": NUL}),
    "completion of NUL": ("/completions", {"model": NUL, "prompt": "a"}),
    "embeddings": ("/embeddings", {"model": "default", "input": NUL}),
    "embeddings of NUL": ("/embeddings", {"model": NUL, "input": "a"}),
    "moderation of NUL": ("/moderations", {"model": NUL, "input": NUL}),
    "speech of NUL": ("/audio/speech", {"model": NUL, "input": NUL}),
    "tokens of NUL": ("/responses/input_tokens", {"model": NUL, "input": NUL}),
    "tokens of a call": ("/responses/input_tokens", {"model": "scripted"} | call(error=5)),
    "a deep text, kept in the background": (
        "/responses",
        {"model": "scripted", "input": DEEP, "background": True},
    ),
    "in the background": (
        "/responses",
        {"model": "scripted", "input": NUL, "background": True, "metadata": {NUL: NUL}},
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_no_other_body_is_a_defect(http: httpx2.AsyncClient, name: str) -> None:
    path, body = BODIES[name]
    answer = await http.post(path, json=body)
    assert answer.status_code < 500, answer.text


STRANGE = (NUL, "a/b", "..", "%", "\u202e", "é" * 400, "x" * 3000)
PATHS = (
    "/responses/{}",
    "/responses/resp_1?starting_after={}&stream=true",
    "/responses/{}/input_items",
    "/conversations/{}",
    "/conversations/{}/items",
    "/conversations/MINE/items?after={}",
    "/conversations/MINE/items?limit={}",
    "/conversations/MINE/items/{}",
    "/chat/completions/{}",
    "/chat/completions?after={}",
    "/chat/completions?model={}",
    "/chat/completions?metadata[{}]=a",
    "/chat/completions?metadata[a]={}",
    "/files/{}",
    "/files/{}/content",
    "/files?after={}",
    "/files?purpose={}",
    "/models/{}",
)


@pytest.mark.parametrize("path", PATHS)
async def test_no_name_in_an_address_is_a_defect(http: httpx2.AsyncClient, path: str) -> None:
    if "MINE" in path:
        mine = (await http.post("/conversations", json={"items": [SAID]})).json()["id"]
        path = path.replace("MINE", mine)
    for name in STRANGE:
        answer = await http.get(path.format(quote(name, safe="")))
        assert answer.status_code < 500, (name[:20], answer.text)
        if answer.headers["content-type"].startswith("application/json"):
            json.loads(answer.text)


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    """Give a form of parts with these heads, whose boundary is x."""
    told = [b"--x\r\n%b\r\n\r\n%b\r\n" % (head.encode(), body) for head, body in parts]
    return b"".join([*told, end])


FILE = 'content-disposition: form-data; name="file"; filename="{}"'
PURPOSE = ('content-disposition: form-data; name="purpose"', b"user_data")
FORMS: dict[str, bytes] = {
    "nothing": b"",
    "no end": form((FILE.format("a"), b"x"), PURPOSE, end=b""),
    "only an end": form(),
    "no file": form(PURPOSE),
    "no purpose": form((FILE.format("a"), b"x")),
    "two files": form((FILE.format("a"), b"x"), (FILE.format("b"), b"x"), PURPOSE),
    "two purposes": form((FILE.format("a"), b"x"), PURPOSE, PURPOSE),
    "no disposition": form(("content-type: text/plain", b"x"), PURPOSE),
    "NUL in the name": form((FILE.format("a\0b"), b"x"), PURPOSE),
    "a way up": form((FILE.format("../../etc/passwd"), b"x"), PURPOSE),
    "another direction": form((FILE.format("\u202egnp.exe"), b"x"), PURPOSE),
    "a long name": form((FILE.format("n" * 7000), b"x"), PURPOSE),
    "a purpose of NUL": form((FILE.format("a"), b"x"), (PURPOSE[0], b"\0")),
    "a purpose that is no text": form((FILE.format("a"), b"x"), (PURPOSE[0], b"\xff")),
    "a long purpose": form((FILE.format("a"), b"x"), (PURPOSE[0], b"p" * 5000)),
    "a type with NUL": form((f"{FILE.format('a')}\r\ncontent-type: a\0b/c", b"x"), PURPOSE),
    "a long type": form((f"{FILE.format('a')}\r\ncontent-type: {'t' * 7000}", b"x"), PURPOSE),
    "a type of two lines": form((f"{FILE.format('a')}\r\ncontent-type: a/b\nx: y", b"x"), PURPOSE),
    "a type beyond Latin": form(
        (f"{FILE.format('a')}\r\ncontent-type: текст/plain", b"x"), PURPOSE
    ),
    "many parts": form(*[(f'content-disposition: form-data; name="p{n}"', b"") for n in range(99)]),
    "empty": form((FILE.format("a"), b""), PURPOSE),
}


@pytest.mark.parametrize("path", ["/files", "/audio/transcriptions", "/images/edits"])
@pytest.mark.parametrize("name", FORMS)
async def test_no_form_is_a_defect(http: httpx2.AsyncClient, name: str, path: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await http.post(path, content=FORMS[name], headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        made = answer.json()
        assert (await http.get(f"/files/{made['id']}")).json() == made
        assert (await http.get(f"/files/{made['id']}/content")).status_code == 200


@pytest.mark.parametrize(
    "kind", ["", "multipart/form-data", "multipart/form-data; boundary=", "a/b; boundary=x", "é; é"]
)
@pytest.mark.parametrize("path", ["/files", "/audio/transcriptions"])
async def test_no_type_of_a_form_is_a_defect(
    http: httpx2.AsyncClient, kind: str, path: str
) -> None:
    headers = {b"content-type": kind.encode()}
    answer = await http.post(path, content=FORMS["empty"], headers=headers)
    assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    "span", ["bytes=0-", "bytes=-1", "bytes=5-2", "bytes=9-", "bytes=0-0,2-3", "lines=1", "\xff"]
)
async def test_no_range_is_a_defect(http: httpx2.AsyncClient, span: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    content = form((FILE.format("a"), b"four"), PURPOSE)
    made = (await http.post("/files", content=content, headers=headers)).json()
    for more in ({}, {"if-range": '"other"'}, {"if-none-match": "*"}):
        ask: Any = {"range": span.encode("latin-1")} | more
        answer = await http.get(f"/files/{made['id']}/content", headers=ask)
        assert answer.status_code in {200, 206, 304, 400, 416}, answer.text
