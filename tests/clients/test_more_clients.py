"""The long form: clients whose own dependencies do not go with the project's."""

from __future__ import annotations

import pytest

from tests.clients.isolated import HERE, long_form, run
from tests.doors.live import Live

HELLO = "Hello, 地峡!"
PERSON = {"name": "Ada", "age": 0}
DIMENSIONS = 512  # of the embedded embedder
PACKAGES = ["--with-requirements", str(HERE / "more_clients.txt")]

pytestmark = long_form


@pytest.mark.parametrize("client", ["litellm", "llama-index", "llm"])
async def test_a_client(live: Live, client: str) -> None:
    said = await run(PACKAGES, "more_clients.py", client, f"{live.url}/v1", live.key)
    assert said.pop("pieces") > 1
    assert said.pop("response", HELLO) == HELLO
    assert said.pop("embeddings", [DIMENSIONS] * 2) == [DIMENSIONS] * 2
    assert said == {
        "chat": HELLO,
        "stream": HELLO,
        "tools": "the sum is 0",
        "structured": PERSON,
    }


async def test_instructor(live: Live) -> None:
    said = await run(PACKAGES, "more_clients.py", "instructor", f"{live.url}/v1", live.key)
    modes = ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS", "stream")
    assert said == dict.fromkeys(modes, PERSON)
