"""Rank functions by the words that they share with a request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_server.llm.wire import object_of

_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to is are was for and or one under with that this it what which how me "
        "my please its by from be do does you your i has have can could would so most only there all "
        "any some as if not no",
    )
)
_ENDINGS = ("ing", "ed", "es", "s", "e")
_CAMEL = re.compile(r"([a-z])([A-Z])")
_WORD = re.compile(r"[a-z0-9]+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_NAME, _DESCRIPTION, _ARGUMENT = 3, 2, 1


def nearest(functions: Sequence[Mapping[str, Any]], request: str) -> Mapping[str, Any] | None:
    """Give the function that shares the most telling words with `request`, None if none shares any.

    A word of the name counts more than one of the description or the arguments, and a word that few
    of the functions have more than one that all have. The first wins a tie.
    """
    asked = set(words_of(request))
    weights = [_weights(function) for function in functions]
    best, most = None, 0.0
    for function, own in zip(functions, weights, strict=True):
        score = 0.0
        for word in asked & own.keys():
            holders = sum(1 for other in weights if word in other)
            score += own[word] * math.log(1 + len(weights) / holders)
        if score > most:
            best, most = function, score
    return best


def _weights(function: Mapping[str, Any]) -> dict[str, int]:
    arguments: list[str] = []
    for name, rules in object_of(object_of(function.get("parameters")).get("properties")).items():
        arguments += [name, str(object_of(rules).get("description") or "")]
    weights = dict.fromkeys(words_of(" ".join(arguments)), _ARGUMENT)
    weights |= dict.fromkeys(words_of(str(function.get("description") or "")), _DESCRIPTION)
    return weights | dict.fromkeys(words_of(str(function["name"])), _NAME)


def words_of(text: str) -> list[str]:
    """Give the telling words of `text` without their endings; of Chinese, Japanese and Korean, bigrams."""
    plain = _CAMEL.sub(r"\1 \2", text).lower()
    words = [_stem(word) for word in _WORD.findall(plain) if word not in _COMMON]
    for run in _CJK.findall(plain):
        words += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
    return words


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
