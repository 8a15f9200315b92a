"""The body of `POST /v1/completions`: a prompt, or several, that a model goes on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from openai_facade.wire.chat import CHAT_FIELDS
from openai_facade.wire.faults import invalid, unsupported, wrong_type
from openai_facade.wire.fields import Check, as_string, boolean, integer, required

MOST_CHOICES = 128
"""How many choices all prompts together may ask for."""

_SHARED = (
    *("frequency_penalty", "logit_bias", "n", "presence_penalty", "seed", "stop", "stream"),
    *("stream_options", "temperature", "top_p", "user"),
)
_MOST_LOGPROBS = 5


@dataclass(frozen=True, slots=True)
class TextRequest:
    """`prompts` are texts; `n` choices for each; `logprobs` is how many alternatives to tell, None for none."""

    model: str
    prompts: tuple[str, ...]
    n: int
    echo: bool
    stream: bool
    logprobs: int | None


def check_completion(body: dict[str, Any], decode: Callable[[str, list[int]], str]) -> TextRequest:
    """Check a decoded body; `decode` gives the text of tokens, after the name of their field.

    Raises:
        InvalidRequest: names the field, what is wrong and what would fit.
    """
    model = as_string("model", required(body, "model"))
    for name, value in body.items():
        check = _FIELDS.get(name)
        if check is not None and value is not None:
            check(name, value)
    if body.get("stream_options") is not None and not body.get("stream"):
        raise invalid("stream_options", "it is only allowed when 'stream' is true.")
    prompts = _prompts(required(body, "prompt"), decode)
    n = body.get("n") or 1
    if len(prompts) * n > MOST_CHOICES:
        raise invalid(
            "prompt", f"{len(prompts)} prompts with n {n} are over {MOST_CHOICES} choices."
        )
    if (body.get("best_of") or n) != n:
        raise unsupported("best_of", "each choice is answered once; leave it out.")
    echo, logprobs = bool(body.get("echo")), body.get("logprobs")
    if echo and logprobs is not None:
        raise unsupported("echo", "a prompt has no log probabilities here; leave one of both out.")
    return TextRequest(model, prompts, n, echo, bool(body.get("stream")), logprobs)


def _prompts(value: object, decode: Callable[[str, list[int]], str]) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong_type("prompt", "a string or an array", value)
    items = cast("list[object]", value)
    if not items:
        raise invalid("prompt", "an empty array has nothing to go on from.")
    if all(_is_token(item) for item in items):
        return (decode("prompt", cast("list[int]", items)),)
    return tuple(_prompt(f"prompt[{index}]", item, decode) for index, item in enumerate(items))


def _prompt(place: str, item: object, decode: Callable[[str, list[int]], str]) -> str:
    if isinstance(item, list):
        tokens = cast("list[object]", item)
        if tokens and all(_is_token(token) for token in tokens):
            return decode(place, cast("list[int]", tokens))
        raise wrong_type(place, "a string or an array of tokens", tokens)
    return as_string(place, item)


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _suffix(place: str, value: object) -> None:
    if value:
        raise unsupported(place, "models answer after the prompt, not within a text; leave it out.")


# Bounds: OpenAI's OpenAPI document 2.3.0, CreateCompletionRequest.
_FIELDS: dict[str, Check] = {
    **{name: CHAT_FIELDS[name] for name in _SHARED},
    "best_of": integer(1, 20),
    "echo": boolean,
    "logprobs": integer(0, _MOST_LOGPROBS),
    "max_tokens": integer(1),
    "suffix": _suffix,
}
