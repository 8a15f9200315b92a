"""The body of `POST /v1/chat/completions`: what must fit before any model sees it."""

from __future__ import annotations

import logging
from typing import Any, cast

from openai_facade.wire.chat_messages import check_messages
from openai_facade.wire.chat_tools import FUNCTION_NAME, check_tools
from openai_facade.wire.faults import invalid, unsupported, wrong_type
from openai_facade.wire.fields import (
    Check,
    as_array,
    as_object,
    as_string,
    boolean,
    integer,
    mapping,
    number,
    one_of,
    required,
    required_string,
    string,
)
from openai_facade.wire.metadata import check_metadata

_MOST_STOPS = 4

_log = logging.getLogger("isthmus.openai")


def check_chat(body: dict[str, Any]) -> str:
    """Check a decoded body and give the model id that it asks for.

    Unknown fields, and parts of a kind that this server does not know, are the business of the
    model that gets them.

    Raises:
        InvalidRequest: names the field, what is wrong and what would fit.
    """
    model = as_string("model", required(body, "model"))
    check_messages(required(body, "messages"))
    for name, value in body.items():
        check = CHAT_FIELDS.get(name)
        if check is not None:
            if value is not None:
                check(name, value)
        elif name not in _CHECKED_BELOW:
            _log.debug("the field %r of a chat is passed on as it is", name[:64])
    check_tools(body)
    _together(body)
    return model


def _together(body: dict[str, Any]) -> None:
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise invalid("top_logprobs", "it needs 'logprobs' to be true.")
    limit, old = body.get("max_completion_tokens"), body.get("max_tokens")
    if limit is not None and old is not None and limit != old:
        raise invalid(
            "max_tokens", "it differs from 'max_completion_tokens'; send only the latter."
        )
    if body.get("stream_options") is not None and not body.get("stream"):
        raise invalid("stream_options", "it is only allowed when 'stream' is true.")


def _response_format(place: str, value: object) -> None:
    fields = as_object(place, value)
    kind = required(fields, "type", f"{place}.type")
    one_of(("text", "json_object", "json_schema"))(f"{place}.type", kind)
    if kind != "json_schema":
        return
    here = f"{place}.json_schema"
    schema = as_object(here, required(fields, "json_schema", here))
    name = required_string(schema, "name", here)
    if not FUNCTION_NAME.match(name):
        raise invalid(
            f"{here}.name", f"{name[:80]!r} does not match the pattern '^[a-zA-Z0-9_-]{{1,64}}$'."
        )
    if schema.get("schema") is not None:
        as_object(f"{here}.schema", schema["schema"])
    if schema.get("strict") is not None:
        boolean(f"{here}.strict", schema["strict"])


def _stop(place: str, value: object) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise wrong_type(place, "a string or an array of strings", value)
    stops = cast("list[object]", value)
    if len(stops) > _MOST_STOPS:
        raise invalid(place, f"expected at most {_MOST_STOPS} items, but got {len(stops)} instead.")
    for index, item in enumerate(stops):
        as_string(f"{place}[{index}]", item)


def _logit_bias(place: str, value: object) -> None:
    for token, bias in as_object(place, value).items():
        if not (token.isascii() and token.isdigit()):
            raise invalid(place, f"the key {token[:40]!r} is no token id.")
        number(-100, 100)(f"{place}.{token}", bias)


def _stream_options(place: str, value: object) -> None:
    fields = as_object(place, value)
    for name in ("include_usage", "include_obfuscation"):
        if fields.get(name) is not None:
            boolean(f"{place}.{name}", fields[name])


def _modalities(place: str, value: object) -> None:
    for index, item in enumerate(as_array(place, value, "strings")):
        if as_string(f"{place}[{index}]", item) != "text":
            raise unsupported(f"{place}[{index}]", f"{item[:40]!r}. Answers are 'text' only.")


def _audio(place: str, value: object) -> None:
    del value
    raise unsupported(place, "answers are text only; leave it out.")


# Looked at by check_chat itself, by check_messages and by check_tools.
_CHECKED_BELOW = frozenset(
    {"model", "messages", "tools", "tool_choice", "functions", "function_call"}
)

# Bounds: OpenAI's OpenAPI document 2.3.0, CreateChatCompletionRequest.
CHAT_FIELDS: dict[str, Check] = {
    "audio": _audio,
    "frequency_penalty": number(-2, 2),
    "logit_bias": _logit_bias,
    "logprobs": boolean,
    "max_completion_tokens": integer(1),
    "max_tokens": integer(1),
    "metadata": check_metadata,
    "modalities": _modalities,
    "n": integer(1, 128),
    "parallel_tool_calls": boolean,
    "prediction": mapping,
    "presence_penalty": number(-2, 2),
    "prompt_cache_key": string,
    "reasoning_effort": one_of(("none", "minimal", "low", "medium", "high", "xhigh", "max")),
    "response_format": _response_format,
    "safety_identifier": string,
    "seed": integer(-(2**63), 2**63 - 1),
    "service_tier": one_of(("auto", "default", "flex", "scale", "priority", "fast")),
    "stop": _stop,
    "store": boolean,
    "stream": boolean,
    "stream_options": _stream_options,
    "temperature": number(0, 2),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "user": string,
    "verbosity": one_of(("low", "medium", "high")),
    "web_search_options": mapping,
}
