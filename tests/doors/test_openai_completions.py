"""The older completions through the OpenAI SDK: prompts of every form, whole and streamed."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.doors.openai_door import Door


async def ask(client: AsyncOpenAI, **more: Any) -> Any:
    request: Any = {"model": "default", "prompt": "one two three"}
    return await client.completions.create(**request | more)


async def test_a_text_goes_on(client: AsyncOpenAI, door: Door) -> None:
    answer = await ask(client, temperature=0.5, extra_body={"top_k": 3})

    assert (answer.object, answer.model) == ("text_completion", "default")
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("one two three", "stop")
    assert answer.usage.total_tokens == 6
    asked = door.model.requests[0]
    assert (asked["temperature"], asked["top_k"], asked["max_tokens"]) == (0.5, 3, 16)


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_and_choices_are_counted_through(client: AsyncOpenAI, stream: bool) -> None:
    answer = await ask(client, prompt=["one", "two words"], n=2, echo=True, stream=stream)
    texts = dict.fromkeys(range(4), "")
    ends: list[int] = []
    if stream:
        chunks = [chunk async for chunk in answer]
        assert len({chunk.id for chunk in chunks}) == 1
        choices = [choice for chunk in chunks for choice in chunk.choices]
    else:
        choices = answer.choices
    for choice in choices:
        texts[choice.index] += choice.text
        ends += [choice.index] if choice.finish_reason else []

    assert list(texts.values()) == ["oneone", "oneone", *["two wordstwo words"] * 2]
    assert ends == [0, 1, 2, 3]


async def test_tokens_are_prompts_too(client: AsyncOpenAI) -> None:
    answer = await ask(client, prompt=[[15339], [15339, 1917]])
    assert [choice.text for choice in answer.choices] == ["hello", "hello world"]


async def test_a_limit_ends_it(client: AsyncOpenAI) -> None:
    answer = await ask(client, max_tokens=2)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two", "length")


async def test_log_probabilities_have_the_older_form(client: AsyncOpenAI) -> None:
    answer = await ask(client, logprobs=1)
    told = answer.choices[0].logprobs
    assert told.tokens == ["one", " two", " three"]
    assert told.text_offset == [0, 3, 7]
    assert told.top_logprobs[0] == {"one": 0.0}


async def test_usage_is_told_at_the_end_of_a_stream(client: AsyncOpenAI) -> None:
    options = {"include_usage": True}
    stream = await ask(client, prompt=["a", "b c"], stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]

    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 6


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a suffix": ({"suffix": "end"}, "suffix", "unsupported_value"),
    "the best of many": ({"best_of": 3}, "best_of", "unsupported_value"),
    "log probabilities of an echo": ({"echo": True, "logprobs": 1}, "echo", "unsupported_value"),
    "an agent": ({"model": "agent/x"}, "model", "unsupported_value"),
    "no prompt": ({"prompt": None}, "prompt", "missing_required_parameter"),
    "an empty list": ({"prompt": []}, "prompt", "invalid_value"),
    "a number": ({"prompt": 7}, "prompt", "invalid_type"),
    "a list of all kinds": ({"prompt": ["a", {}]}, "prompt[1]", "invalid_type"),
    "a token that is none": ({"prompt": [[-1]]}, "prompt[0]", "invalid_value"),
    "too many choices": ({"prompt": ["a"] * 50, "n": 3}, "prompt", "invalid_value"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_is_refused_by_name(
    client: AsyncOpenAI, door: Door, case: str
) -> None:
    more, param, code = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, **more)

    assert (caught.value.param, caught.value.code) == (param, code)
    assert door.model.requests == []
