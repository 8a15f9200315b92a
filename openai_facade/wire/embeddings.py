"""The body of `POST /v1/embeddings` and the object that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from openai_facade.wire.faults import InvalidRequest, invalid, wrong_type
from openai_facade.wire.fields import as_string, integer, one_of, required

_MOST_INPUTS = 2048  # OpenAI's own bound
_INPUT = "a string, an array of strings, an array of integers, or an array of arrays of integers"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A checked body: each input is a text or an array of tokens."""

    model: str
    inputs: tuple[str | list[int], ...]
    encoding: str
    dimensions: int | None


def check_embeddings(body: dict[str, Any]) -> EmbeddingRequest:
    """Check a decoded body.

    Raises:
        InvalidRequest: names the field, what is wrong and what would fit.
    """
    model = as_string("model", required(body, "model"))
    inputs = _inputs(required(body, "input"))
    encoding = body.get("encoding_format") or "float"
    one_of(("float", "base64"))("encoding_format", encoding)
    dimensions = body.get("dimensions")
    if dimensions is not None:
        integer(1)("dimensions", dimensions)
    return EmbeddingRequest(model, inputs, encoding, dimensions)


def embedding_list(
    model: str, vectors: Sequence[Sequence[float] | str], tokens: int
) -> dict[str, Any]:
    """Build the answer: `vectors` are lists of numbers or base64 texts, in the order of the inputs."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _inputs(value: object) -> tuple[str | list[int], ...]:
    if isinstance(value, str):
        return (_text("input", value),)
    if not isinstance(value, list):
        raise wrong_type("input", _INPUT, value)
    items = cast("list[object]", value)
    if not items:
        raise _empty("input", "array")
    if isinstance(items[0], int):
        return (_tokens("input", items),)
    if len(items) > _MOST_INPUTS:
        raise invalid("input", f"expected at most {_MOST_INPUTS} inputs, but got {len(items)}.")
    return tuple(_input(f"input[{index}]", item) for index, item in enumerate(items))


def _input(place: str, item: object) -> str | list[int]:
    if isinstance(item, str):
        return _text(place, item)
    if not isinstance(item, list):
        raise wrong_type(place, "a string or an array of integers", item)
    return _tokens(place, cast("list[object]", item))


def _text(place: str, value: str) -> str:
    if not value:
        raise _empty(place, "string")
    return value


def _tokens(place: str, items: list[object]) -> list[int]:
    if not items:
        raise _empty(place, "array")
    for index, item in enumerate(items):
        if isinstance(item, bool) or not isinstance(item, int):
            raise wrong_type(f"{place}[{index}]", "an integer", item)
    return cast("list[int]", items)


def _empty(place: str, kind: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{place}': empty {kind}. There is nothing to embed.",
        param=place,
        wire_code=f"empty_{kind}",
    )
