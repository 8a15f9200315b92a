"""Leave out of a request what its upstream refuses, or say why it cannot be asked."""

from __future__ import annotations

import logging

from mcp_server.llm import ChatRequest, UpstreamError
from mcp_server.llm.terms import Terms

# POST /chat/completions in OpenAI's document 2.3.0 (2026-08-21), old fields included.
_OPENAI = """
    model messages audio frequency_penalty function_call functions logit_bias logprobs
    max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls prediction
    presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
    response_format safety_identifier seed service_tier stop store stream stream_options temperature
    tool_choice tools top_logprobs top_p user verbosity web_search_options
"""
OPENAI_FIELDS = frozenset(_OPENAI.split())

# Without these the answer is of the same kind: they are bookkeeping, or wishes about cost and style.
_HINTS = """
    metadata parallel_tool_calls prediction prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning_effort safety_identifier seed service_tier store stream_options
    user verbosity
"""
HINTS = frozenset(_HINTS.split())

_log = logging.getLogger("isthmus.llm")


def fitted(request: ChatRequest, terms: Terms, upstream: str) -> ChatRequest:
    """Give the request without what `terms` say that the upstream refuses; the request is not changed.

    A hint is left out, and so is a field that a strict upstream cannot know; both are logged at debug.

    Raises:
        UpstreamError: status 400, a refused field says what the answer must be like.
    """
    if not terms.strict and not terms.refuse_fields:
        return request
    kept: ChatRequest = {}
    for name, value in request.items():
        known = name in OPENAI_FIELDS
        if name not in terms.refuse_fields and (known or not terms.strict):
            kept[name] = value
        elif known and name not in HINTS and value is not None:
            raise _refused(name, upstream)
        else:
            _log.debug("%s refuses the field %r: it is left out", upstream, name[:64])
    return kept


def _refused(name: str, upstream: str) -> UpstreamError:
    body = {
        "message": f"Unsupported parameter: '{name}' is not supported with this model.",
        "param": name,
        "code": "unsupported_parameter",
    }
    return UpstreamError(400, body, upstream=upstream)
