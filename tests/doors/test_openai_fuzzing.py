"""Requests that schemathesis makes of /openapi.json, fitting and not: none breaks the server, and each answer fits."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from openai_facade.specification.document import openapi_document
from tests.doors.live import Live, http_client, open_live

# Its strategies draw from `random`, which hypothesis seeds: what is asked stays the same from run to run.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")

EXAMPLES = 500 if os.environ.get("TEST_LENGTH") == "long" else 2
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
OPERATIONS = [
    (method.upper(), path)
    for path, operations in openapi_document()["paths"].items()
    for method in operations
]


@cache
def schema() -> Any:
    return schemathesis.openapi.from_dict(openapi_document())


@pytest.fixture(scope="module")
async def live(scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "fuzzing", llm_url=("scripted:",)) as live:
        yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(live.headers) as client:
        yield client


@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
async def test_no_request_breaks_the_server_and_each_answer_fits_the_document(
    live: Live, client: httpx2.AsyncClient, operation: tuple[str, str], mode: GenerationMode
) -> None:
    method, path = operation
    real = {
        name: await make(client, live.url) for name, make in MAKERS.items() if f"{{{name}}}" in path
    }
    await anyio.to_thread.run_sync(partial(ask, live, method, path, mode, real))


def ask(live: Live, method: str, path: str, mode: GenerationMode, real: dict[str, str]) -> None:
    """Send what hypothesis makes up; half of it at things that there are."""

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]  its metaclass iterates
    )
    @given(case=schema()[path][method].as_strategy(mode), aimed=st.booleans())
    def send(case: Case, aimed: bool) -> None:
        if aimed:
            case.path_parameters = {**(case.path_parameters or {}), **real}
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "default"
        answer = case.call(base_url=live.url, headers=live.headers, timeout=60)
        case.validate_response(answer, checks=CHECKS)

    try:
        send()
    # Its groups are no `Exception`s, which would end the loop that the server runs in.
    except (Exception, FailureGroup) as failure:  # noqa: BLE001 - shown without what schemathesis hangs on it
        told = getattr(failure, "exceptions", [failure])
        faults = [f"{type(each).__name__}: {each}"[:2000] for each in told]
    else:
        faults = []
    assert faults == []


async def _made(client: httpx2.AsyncClient, url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def chat(client: httpx2.AsyncClient, url: str) -> str:
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "default", "messages": messages, "store": True}
    return (await _made(client, f"{url}/v1/chat/completions", body))["id"]


async def response(client: httpx2.AsyncClient, url: str) -> str:
    return (await _made(client, f"{url}/v1/responses", {"model": "default", "input": "x"}))["id"]


async def conversation(client: httpx2.AsyncClient, url: str) -> str:
    return (await _made(client, f"{url}/v1/conversations", {}))["id"]


async def model(client: httpx2.AsyncClient, url: str) -> str:
    return "default"


async def file(client: httpx2.AsyncClient, url: str) -> str:
    answer = await client.post(
        f"{url}/v1/files", data={"purpose": "user_data"}, files={"file": b"x"}
    )
    return answer.json()["id"]


async def store(client: httpx2.AsyncClient, url: str) -> str:
    return (await _made(client, f"{url}/v1/vector_stores", {}))["id"]


MAKERS: dict[str, Callable[[httpx2.AsyncClient, str], Any]] = {
    "completion_id": chat,
    "response_id": response,
    "conversation_id": conversation,
    "model": model,
    "file_id": file,
    "vector_store_id": store,
}
