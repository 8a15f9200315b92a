"""The long form: responses, their events and compactions fit the types of the Open Responses specification."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.isolated import long_form, run
from tests.doors.live import Live, http_client

PACKAGES = ["--with", "openresponses-types==2.4.0"]
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Tell the weather of a place.",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="

pytestmark = long_form


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


PICTURE = [
    {"type": "input_text", "text": "What is it?"},
    {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
]
REQUESTS: list[dict[str, Any]] = [
    {"input": [message("user", "Say hello.")]},
    {"input": [message("system", "You are a pirate."), message("user", "Say hello.")]},
    {"input": [message("user", "How is the weather?")], "tools": [WEATHER]},
    {"input": [message("user", PICTURE)]},
    {"input": [message("user", "I am Ada."), message("assistant", "Hi."), message("user", "Who?")]},
    {"input": "word " * 20, "max_output_tokens": 16, "metadata": {"a": "b"}},
    {"input": "Say hello.", "reasoning": {"effort": "low"}, "instructions": "Be brief."},
]


async def test_all_that_is_said_fits_the_specification(live: Live) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    async with http_client(live.headers) as http:

        async def post(path: str, **body: Any) -> str:
            answer = await http.post(f"{live.url}/v1{path}", json={"model": "default", **body})
            assert answer.status_code == 200, answer.text
            return answer.text

        for request in REQUESTS:
            said.append(("response", json.loads(await post("/responses", **request))))
            streamed = await post("/responses", **request, stream=True)
            lines = [line for line in streamed.splitlines() if line.startswith("data: {")]
            said += [("event", json.loads(line.removeprefix("data: "))) for line in lines]
        compacted = await post("/responses/compact", input=[message("user", "Say hello.")])
        said.append(("compaction", json.loads(compacted)))
    assert len(said) > 5 * len(REQUESTS)
    assert "incomplete" in {each.get("status") for _, each in said}
    assert await run(PACKAGES, "open_responses.py", given=json.dumps(said)) == []

    lacking = dict(said[0][1])
    del lacking["presence_penalty"]
    (fault,) = await run(PACKAGES, "open_responses.py", given=json.dumps([("response", lacking)]))
    assert fault == "response presence_penalty: Field required"
