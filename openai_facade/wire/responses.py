"""The body of `POST /v1/responses`: what must fit before any model sees it."""

from __future__ import annotations

import logging
from typing import Any, cast

from openai_facade.wire.faults import InvalidRequest, unsupported, wrong_type
from openai_facade.wire.fields import (
    Check,
    as_array,
    as_object,
    as_string,
    boolean,
    integer,
    number,
    one_of,
    required,
    string,
)
from openai_facade.wire.metadata import check_metadata
from openai_facade.wire.response_input import check_input
from openai_facade.wire.response_tools import check_tool_choice, check_tools

# openai 3.54.0, ResponseIncludable. What no tool here can give is accepted: it asks for nothing then.
INCLUDABLE = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)

_log = logging.getLogger("isthmus.openai")


def check_response(body: dict[str, Any]) -> str:
    """Check a decoded body and give the model id that it asks for.

    Fields that are not known are ignored, and logged at debug.

    Raises:
        InvalidRequest: names the field, what is wrong and what would fit.
    """
    model = as_string("model", required(body, "model"))
    check_context(body)
    for name, value in body.items():
        if value is None or name in {"model", "input", "tools", "tool_choice"}:
            continue
        if name in _FIELDS:
            _FIELDS[name](name, value)
        elif name in _REFUSED:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not supported here: {_REFUSED[name]}.",
                param=name,
                wire_code="unsupported_parameter",
            )
        else:
            _log.debug("responses: the field %r is ignored", name)
    return model


def check_context(body: dict[str, Any]) -> None:
    """Check what the model would read: input, tools, and what an earlier response or conversation adds.

    Raises:
        InvalidRequest: names the field, what is wrong and what would fit.
    """
    given = body.get("input")
    if given is not None:
        check_input("input", given)
    check_tools("tools", body.get("tools") or [])
    if body.get("tool_choice") is not None:
        check_tool_choice("tool_choice", body["tool_choice"])
    for name in ("previous_response_id", "conversation", "instructions", "text", "reasoning"):
        if body.get(name) is not None:
            _FIELDS[name](name, body[name])
    if body.get("previous_response_id") is not None and body.get("conversation") is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: give only one of 'previous_response_id' and "
            "'conversation'.",
            param="previous_response_id",
            wire_code="mutually_exclusive_parameters",
        )


def conversation_id(body: dict[str, Any]) -> str | None:
    """Give the id of the conversation that a checked body names."""
    given = body.get("conversation")
    return cast("dict[str, Any]", given)["id"] if isinstance(given, dict) else given


def _instructions(place: str, value: object) -> None:
    if not isinstance(value, str):
        check_input(place, value)


def _conversation(place: str, value: object) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, dict):
        raise wrong_type(place, "a string or an object", value)
    fields = cast("dict[str, Any]", value)
    as_string(f"{place}.id", required(fields, "id", f"{place}.id"))


def _include(place: str, value: object) -> None:
    for index, item in enumerate(as_array(place, value, "strings")):
        one_of(INCLUDABLE)(f"{place}[{index}]", item)


def _reasoning(place: str, value: object) -> None:
    fields = as_object(place, value)
    for name in ("effort", "summary", "generate_summary"):
        if fields.get(name) is not None:
            as_string(f"{place}.{name}", fields[name])


def _text(place: str, value: object) -> None:
    fields = as_object(place, value)
    if fields.get("verbosity") is not None:
        one_of(("low", "medium", "high"))(f"{place}.verbosity", fields["verbosity"])
    if fields.get("format") is None:
        return
    here = f"{place}.format"
    wanted = as_object(here, fields["format"])
    kind = required(wanted, "type", f"{here}.type")
    one_of(("text", "json_object", "json_schema"))(f"{here}.type", kind)
    if kind == "json_schema":
        as_string(f"{here}.name", required(wanted, "name", f"{here}.name"))
        as_object(f"{here}.schema", required(wanted, "schema", f"{here}.schema"))


def _stream_options(place: str, value: object) -> None:
    fields = as_object(place, value)
    if fields.get("include_obfuscation") is not None:
        boolean(f"{place}.include_obfuscation", fields["include_obfuscation"])


def _unless_empty(place: str, value: object) -> None:
    if as_array(place, value):
        raise unsupported(place, "nothing is compacted by itself here; send an empty array.")


_FIELDS: dict[str, Check] = {
    "background": boolean,
    "context_management": _unless_empty,
    "conversation": _conversation,
    "frequency_penalty": number(-2, 2),
    "include": _include,
    "instructions": _instructions,
    "max_output_tokens": integer(1),
    "max_tool_calls": integer(1),
    "metadata": check_metadata,
    "parallel_tool_calls": boolean,
    "presence_penalty": number(-2, 2),
    "previous_response_id": string,
    "prompt_cache_key": string,
    "reasoning": _reasoning,
    "safety_identifier": string,
    "service_tier": string,
    "store": boolean,
    "stream": boolean,
    "stream_options": _stream_options,
    "temperature": number(0, 2),
    "text": _text,
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "truncation": one_of(("auto", "disabled")),
    "user": string,
}

# What would change the answer, and is not there.
_REFUSED = {
    "image": "send images as parts of the input",
    "moderation": "ask POST /v1/moderations yourself",
    "prompt": "no templates are stored; send instructions and input",
}
