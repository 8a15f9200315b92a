"""Batches as OpenAI's own client uses them: a file of requests in, files of answers and errors out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch
from sqlalchemy import text

from mcp_server.auth.principal import OWNER
from mcp_server.services.purging import purge
from tests.doors.live import Live, open_live
from tests.doors.slow_model import SlowModel, serving_slow

ENDED = {"completed", "failed", "cancelled", "expired"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[tuple[SlowModel, str]]:
    async with serving_slow() as served:
        yield served


@pytest.fixture(scope="module")
async def live(scratch: Path, model: tuple[SlowModel, str]) -> AsyncIterator[Live]:
    async with open_live(scratch / "batches", llm_url=f"{model[1]}/v1") as live:
        yield live


@pytest.fixture
def asked(model: tuple[SlowModel, str]) -> SlowModel:
    model[0].reset()
    return model[0]


def client_of(live: Live, key: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key or live.key, max_retries=0)


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(live) as client:
        yield client


def line(number: int, *, url: str = CHAT, **body: Any) -> dict[str, Any]:
    given = {"model": "default", "messages": [{"role": "user", "content": f"say {number}"}]} | body
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": given}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def start(client: AsyncOpenAI, data: bytes, endpoint: Any = CHAT, **terms: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **terms
    )


async def until_ended(client: AsyncOpenAI, batch: str) -> Batch:
    async with asyncio.timeout(30):
        while (found := await client.batches.retrieve(batch)).status not in ENDED:
            await asyncio.sleep(0.05)
    return found


async def lines_of(client: AsyncOpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(each) for each in (await client.files.content(file)).text.splitlines()]


async def test_a_batch_answers_every_line_of_its_file(
    client: AsyncOpenAI, asked: SlowModel, live: Live
) -> None:
    data = jsonl(*(line(number) for number in range(7)))
    kept = {"anchor": "created_at", "seconds": 3600}
    made = await start(client, data, metadata={"of": "a test"}, output_expires_after=kept)
    assert (made.status, made.metadata) == ("validating", {"of": "a test"})
    done = await until_ended(client, made.id)
    assert done.status == "completed", done
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 7, "completed": 7, "failed": 0}
    assert done.error_file_id is None
    answers = await lines_of(client, done.output_file_id)
    assert [each["custom_id"] for each in answers] == [f"line-{number}" for number in range(7)]
    said = [each["response"]["body"]["choices"][0]["message"]["content"] for each in answers]
    assert said == [f"echo say {number}" for number in range(7)]
    assert all(each["response"]["request_id"].startswith("req_") for each in answers)
    assert len(asked.asked) == 7
    file = await client.files.retrieve(done.output_file_id or "")
    assert (file.purpose, (file.expires_at or 0) - file.created_at) == ("batch_output", 3600)
    assert (await client.batches.list(limit=1)).data[0] == done
    kinds = {run["kind"] for run in (await live.runtime.services.runs.list(OWNER))["items"]}
    assert "batch" in kinds
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(made.id)


async def test_lines_that_fail_go_to_a_file_of_their_own(
    client: AsyncOpenAI, asked: SlowModel
) -> None:
    lines = [line(0), line(1, model="no-such-model"), line(2, stream=True), line(3, messages=[])]
    done = await until_ended(client, (await start(client, jsonl(*lines))).id)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 4, "completed": 1, "failed": 3}
    failed = await lines_of(client, done.error_file_id)
    assert [(each["custom_id"], each["response"]["status_code"]) for each in failed] == [
        ("line-1", 404),
        ("line-2", 400),
        ("line-3", 400),
    ]
    assert failed[0]["response"]["body"]["error"]["code"] == "model_not_found"
    assert len(asked.asked) == 1


async def test_lines_are_asked_again_when_the_model_was_busy(
    client: AsyncOpenAI, asked: SlowModel
) -> None:
    asked.busy_for = 12  # more than the router tries on its own for these lines
    done = await until_ended(client, (await start(client, jsonl(*map(line, range(3))))).id)
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 3, "completed": 3, "failed": 0}
    assert len(asked.answered) == 3
    assert len(asked.asked) == 15


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"model": "default", "input": "an isthmus"}),
        ("/v1/responses", {"model": "default", "input": "say it"}),
        ("/v1/completions", {"model": "default", "prompt": "say it"}),
    ],
)
async def test_a_batch_serves_its_other_endpoints(
    client: AsyncOpenAI, asked: SlowModel, endpoint: str, body: dict[str, Any]
) -> None:
    one = {"custom_id": "one", "method": "POST", "url": endpoint, "body": body}
    done = await until_ended(client, (await start(client, jsonl(one), endpoint)).id)
    shown = done.output_file_id and await lines_of(client, done.output_file_id)
    errors = done.error_file_id and await lines_of(client, done.error_file_id)
    assert shown, errors
    assert shown[0]["response"]["body"]["object"] in {"list", "response", "text_completion"}


@pytest.mark.parametrize(
    ("data", "code", "number"),
    [
        (b"no json\n", "invalid_json_line", 1),
        (b"\x00\x00\n", "invalid_json_line", 1),
        (b"[1]\n", "invalid_json_line", 1),
        (b"\n  \n", "empty_file", None),
        (jsonl(line(0), line(1), line(0)), "duplicate_custom_id", 3),
        (jsonl(line(0), line(1, url="/v1/embeddings")), "mismatched_endpoint", 2),
        (jsonl(line(0) | {"method": "GET"}), "invalid_method", 1),
        (jsonl(line(0) | {"custom_id": "a\0b"}), "invalid_custom_id", 1),
        (jsonl(line(0) | {"body": {"messages": []}}), "missing_required_parameter", 1),
        (jsonl(line(0) | {"body": "text"}), "invalid_type", 1),
    ],
)
async def test_a_file_that_does_not_fit_fails_the_batch_and_asks_nothing(
    client: AsyncOpenAI, asked: SlowModel, data: bytes, code: str, number: int | None
) -> None:
    done = await until_ended(client, (await start(client, data)).id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.errors is not None
    assert done.errors.data is not None
    assert [(each.code, each.line) for each in done.errors.data] == [(code, number)]
    assert asked.asked == []


async def test_what_is_asked_of_a_batch_is_checked_at_once(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.batches.create(
            input_file_id="file-none", endpoint=CHAT, completion_window="24h"
        )
    notes = await client.files.create(file=("n.txt", b"x"), purpose="user_data")
    for terms in (
        {"input_file_id": notes.id},
        {"endpoint": "/v1/images/edits"},
        {"completion_window": "1h"},
        {"input_file_id": 5},
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
    ):
        given: Any = {"input_file_id": notes.id, "endpoint": CHAT, "completion_window": "24h"}
        with pytest.raises(openai.BadRequestError):
            await client.batches.create(**given | terms)


async def test_another_tenant_sees_no_batch_and_no_file(
    live: Live, client: AsyncOpenAI, asked: SlowModel
) -> None:
    made = await start(client, jsonl(line(0)))
    other = await live.runtime.services.keys.create("batches", tenant="stranger")
    async with client_of(live, other["key"]) as stranger:
        for asking in (stranger.batches.retrieve, stranger.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await asking(made.id)
        assert (await stranger.batches.list()).data == []
        with pytest.raises(openai.NotFoundError):
            await stranger.batches.create(
                input_file_id=made.input_file_id, endpoint=CHAT, completion_window="24h"
            )
    await until_ended(client, made.id)


async def test_a_cancelled_batch_keeps_what_was_answered(
    client: AsyncOpenAI, asked: SlowModel
) -> None:
    asked.hold_after = 3
    made = await start(client, jsonl(*(line(number) for number in range(20))))
    await asked.until_held()
    assert (await client.batches.cancel(made.id)).status == "cancelling"
    await asked.until_left()
    done = await until_ended(client, made.id)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    assert len(await lines_of(client, done.output_file_id)) == 3
    failed = await lines_of(client, done.error_file_id)
    assert {each["error"]["code"] for each in failed} == {"batch_cancelled"}
    assert len(failed) == 17
    asking = len(asked.asked)
    assert asking <= 7


async def test_a_revoked_key_ends_its_batch(
    live: Live, client: AsyncOpenAI, asked: SlowModel
) -> None:
    keys = live.runtime.services.keys
    made = await keys.create("batch-revoked")
    asked.hold_after = 2
    async with client_of(live, made["key"]) as owner:
        batch = await start(owner, jsonl(*(line(number) for number in range(9))))
        await asked.until_held()
    await keys.revoke(made["id"])
    await asked.until_left()
    done = await until_ended(client, batch.id)
    assert (done.status, done.output_file_id) == ("failed", None)
    assert done.errors is not None
    assert done.errors.data is not None
    assert done.errors.data[0].code == "unauthenticated"


async def test_a_batch_is_decided_line_by_line_and_needs_a_place_for_its_answers(
    live: Live, asked: SlowModel
) -> None:
    keys = live.runtime.services.keys
    narrow = await keys.create(
        "batch-narrow",
        scopes=["read", "write:object://files/*", "run:batch://*", "run:model://default"],
    )
    async with client_of(live, narrow["key"]) as client:
        done = await until_ended(
            client, (await start(client, jsonl(line(0), line(1, model="other")))).id
        )
        [failed] = await lines_of(client, done.error_file_id)
        assert failed["response"]["status_code"] == 403
        input_file = done.input_file_id
    reader = await keys.create("batch-reader", scopes=["read", "run"])
    async with client_of(live, reader["key"]) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.batches.create(
                input_file_id=input_file, endpoint=CHAT, completion_window="24h"
            )


async def test_a_batch_that_was_not_done_in_its_window_expires(
    live: Live, client: AsyncOpenAI, asked: SlowModel
) -> None:
    asked.hold_after = 1
    made = await start(client, jsonl(*(line(number) for number in range(6))))
    await asked.until_held()
    control = live.runtime.engines.control
    async with control.begin() as tx:
        await tx.execute(text("update batches set due_at = now() where id = :id"), {"id": made.id})
    done = await until_ended(client, made.id)
    assert done.status == "expired"
    assert len(await lines_of(client, done.output_file_id)) == 1
    failed = await lines_of(client, done.error_file_id)
    assert [each["error"]["code"] for each in failed] == ["batch_expired"] * 5
    async with control.begin() as tx:
        left = text("select count(*) from batch_lines where batch = :id")
        assert await tx.scalar(left, {"id": made.id}) == 0
        past = text("update batches set expires_at = now() where id = :id")
        await tx.execute(past, {"id": made.id})
    assert await purge(control, "batches") == 1
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve(made.id)
