"""Embeddings: strings and token arrays in, numbers and base64 out."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.doors.openai_door import Door

HELLO = [15339, 1917]  # "hello world" in cl100k_base


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])
async def test_both_encodings_carry_the_same_numbers(
    client: AsyncOpenAI, encoding: dict[str, Any]
) -> None:
    # The SDK asks for base64 unless told otherwise, and decodes it.
    answer = await client.embeddings.create(model="default", input="abcd", **encoding)

    assert answer.data[0].embedding == [4.0, 0.5, -1.25]
    assert answer.model == "default"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 1


@pytest.mark.parametrize(
    ("given", "texts", "tokens"),
    [
        ("hello world", ["hello world"], 2),
        (["hello", " world"], ["hello", " world"], 2),
        (HELLO, ["hello world"], 2),
        ([HELLO, [9906, 244]], ["hello world", "Hello\ufffd"], 4),
        ([100257, *HELLO], ["hello world"], 3),
    ],
)
async def test_every_form_of_input_reaches_the_embedder_as_text(
    client: AsyncOpenAI, door: Door, given: Any, texts: list[str], tokens: int
) -> None:
    answer = await client.embeddings.create(model="three-numbers", input=given)

    assert door.embedder.texts == texts
    assert [item.index for item in answer.data] == list(range(len(texts)))
    assert answer.usage.prompt_tokens == tokens


async def test_the_dimensions_that_the_embedder_has_are_accepted(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="default", input="x", dimensions=3)

    assert len(answer.data[0].embedding) == 3


async def test_dimensions_are_checked_also_where_only_the_answer_tells_them(
    client: AsyncOpenAI, door: Door
) -> None:
    door.embedder.dimensions = 0  # an upstream that was not asked yet
    await client.embeddings.create(model="default", input="x", dimensions=3)
    with pytest.raises(openai.BadRequestError, match="has 3 dimensions"):
        await client.embeddings.create(model="default", input="x", dimensions=2)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "other dimensions": ({"dimensions": 2}, "dimensions", "unsupported_value"),
    "no dimensions": ({"dimensions": 0}, "dimensions", "invalid_value"),
    "dimensions of a wrong type": ({"dimensions": "3"}, "dimensions", "invalid_type"),
    "an unknown encoding": ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
    "an empty text": ({"input": ""}, "input", "empty_string"),
    "an empty text in a list": ({"input": ["a", ""]}, "input[1]", "empty_string"),
    "an empty list": ({"input": []}, "input", "empty_array"),
    "an empty token array": ({"input": [[]]}, "input[0]", "empty_array"),
    "an object": ({"input": {"text": "x"}}, "input", "invalid_type"),
    "a mixed list": ({"input": ["a", 1]}, "input[1]", "invalid_type"),
    "a mixed token array": ({"input": [1, "a"]}, "input[1]", "invalid_type"),
    "a boolean token": ({"input": [1, True]}, "input[1]", "invalid_type"),
    "a token beyond the vocabulary": ({"input": [10**9]}, "input", "invalid_value"),
    "a negative token": ({"input": [[1], [-1]]}, "input[1]", "invalid_value"),
    "a hole in the vocabulary": ({"input": [100256]}, "input", "invalid_value"),
    "too many inputs": ({"input": ["a"] * 2049}, "input", "invalid_value"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_request_that_does_not_fit_is_refused_by_name(
    client: AsyncOpenAI, door: Door, case: str
) -> None:
    more, param, code = REFUSED[case]
    request: dict[str, Any] = {"model": "default", "input": "x", **more}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(**request)

    assert (caught.value.param, caught.value.code) == (param, code)
    assert door.embedder.texts == []


async def test_a_model_that_does_not_embed_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="three-numbers") as caught:
        await client.embeddings.create(model="scripted", input="x")

    assert caught.value.code == "model_not_found"
