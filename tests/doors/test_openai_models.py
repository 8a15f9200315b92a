"""The list of models: what a caller may see, agents and slashes included."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import OWNER
from mcp_server.operation import Operations
from tests.doors.openai_door import Door, connect, open_door


@pytest.fixture(scope="module")
async def opened(control: AsyncEngine, operations: Operations) -> AsyncIterator[Door]:
    async with open_door(control, operations) as door:
        await door.agents.save(OWNER, "helper", instructions="Help.")
        yield door


async def test_the_list_holds_models_embedders_and_agents(door: Door) -> None:
    async with connect(door) as client:
        models = [model async for model in client.models.list()]

    ids = [model.id for model in models]
    assert ids[:3] == ["scripted", "vendor/with-slash", "three-numbers"]
    assert "agent/helper" in ids[3:]  # other tests have agents too
    assert all(model_id.startswith("agent/") for model_id in ids[3:])
    assert all(model.object == "model" and model.created > 0 and model.owned_by for model in models)


@pytest.mark.parametrize(
    "model_id", ["default", "scripted", "vendor/with-slash", "three-numbers", "agent/helper"]
)
async def test_a_model_can_be_retrieved(door: Door, model_id: str) -> None:
    async with connect(door) as client:
        assert (await client.models.retrieve(model_id)).id == model_id


@pytest.mark.parametrize(
    "model_id", ["gpt-9", "agent/nobody", "agent/a/b", "vendor/with-slash/more"]
)
async def test_an_unknown_model_is_not_found(door: Door, model_id: str) -> None:
    async with connect(door) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve(model_id)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_key_sees_the_models_of_its_scopes(door: Door) -> None:
    made = await door.keys.create("narrow", tenant="door-models", scopes=["read:model://vendor/*"])
    async with connect(door, made["key"]) as client:
        assert [model.id async for model in client.models.list()] == ["vendor/with-slash"]
        with pytest.raises(openai.PermissionDeniedError):
            await client.models.retrieve("scripted")


async def test_a_key_that_may_read_no_model_is_refused(door: Door) -> None:
    made = await door.keys.create("runner", tenant="door-models", scopes=["run"])
    async with connect(door, made["key"]) as client:
        with pytest.raises(openai.PermissionDeniedError, match="read"):
            await client.models.list()


async def test_another_tenants_agent_is_not_there(door: Door) -> None:
    made = await door.keys.create("stranger", tenant="door-strangers")
    async with connect(door, made["key"]) as client:
        assert "agent/helper" not in [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("agent/helper")
