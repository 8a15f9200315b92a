"""Agents as YAML: what is written reads back, and what does not fit is told with its place."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.errors import InvalidInput
from mcp_server.services.agent_files import read_agents, write_agent
from mcp_server.services.agent_items import AgentItem

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


def item_of(**fields: Any) -> AgentItem:
    definition = AgentDefinition.model_validate({"name": "a", **fields})
    told = {"paused": False, "version": 1, "created_at": "", "updated_at": ""}
    return cast("AgentItem", definition.model_dump(mode="json") | told)


@given(instructions=TEXTS, metadata=st.dictionaries(TEXTS, TEXTS, max_size=3), schema=VALUES)
def test_what_is_written_reads_back(
    instructions: str, metadata: dict[str, str], schema: Any
) -> None:
    fields = {
        "instructions": instructions,
        "metadata": metadata,
        "output_schema": {"default": schema},
        "variables": {"no": None, "yes": "on"},
    }
    item = item_of(**fields)
    (read,) = read_agents("f", write_agent(item)).values()
    assert AgentDefinition.model_validate(read) == AgentDefinition.model_validate(
        {"name": "a", **fields}
    )


def test_documents_are_told_by_their_number_and_empty_ones_left_out() -> None:
    text = "---\nname: a\n---\n---\nname: b\n..."
    assert read_agents("f.yaml", text) == {
        "f.yaml, document 1": {"name": "a"},
        "f.yaml, document 3": {"name": "b"},
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "f, line 1, column 5: it is no YAML: "),
        ("a: 1\na: 2\n", "f, line 2, column 1: it is no YAML: 'a' stands here twice"),
        ("a: {b: 1, b: 2}\n", "f, line 1, column 11: it is no YAML: 'b' stands here twice"),
        (
            "a: !!python/object/apply:os.getcwd []\n",
            "f, line 1, column 4: it is no YAML: could not",
        ),
        ("a: \x00", "f: it is no YAML: unacceptable character"),
        ("[" * 5000, "f: it is nested too deep"),
        ("- a\n", "f, document 1: write a mapping with name and instructions"),
        ("a: 1\n--- b\n", "f, document 2: write a mapping with name and instructions"),
        ("1: x\n", "f, document 1: 1 is no name of a field; quote it"),
        ("a: 2026-01-01\n", "f, document 1: a: JSON cannot hold it"),
        ("a: .nan\n", "f, document 1: a: JSON cannot hold it"),
        ("a: &b {c: *b}\n", "f, document 1: a: JSON cannot hold it"),
        ("a: {? [x] : 1}\n", "f, line 1, column 7: it is no YAML: found unhashable key"),
    ],
)
def test_what_is_no_definition_is_told_with_its_place(text: str, error: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_agents("f", text)
    assert caught.value.message.startswith(error)
    assert "\n" not in caught.value.message


def test_merged_keys_of_an_anchor_may_be_written_over() -> None:
    text = "limits: &base {turns: 1, seconds: 2}\nmetadata: {<<: *base, turns: 3}\n"
    assert read_agents("f", text) == {
        "f, document 1": {
            "limits": {"turns": 1, "seconds": 2},
            "metadata": {"turns": 3, "seconds": 2},
        }
    }
