"""What a file search found: as text for the model, as results for the client, and as citations."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FUNCTION = "file_search"
"""The name by which a model knows it."""

SPEC: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": FUNCTION,
        "description": "Search the user's files. Cite a passage that you use by its number: 【1】.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "what to look for"}},
            "required": ["query"],
            "additionalProperties": False,
        },
    },
}

# Models trained on OpenAI's own markers write 【1†name】.
_MARKER = re.compile(r"【(\d{1,6})(?:†[^】\n]{0,200})?】")
# What JSON's writer can hold of whole numbers.
_WHOLE = -(2**63), 2**64 - 1
_MOST_ATTRIBUTES, _MOST_NAME, _MOST_VALUE = 16, 64, 512


@dataclass(slots=True)
class Sources:
    """The passages that a model was shown, in order: it cites them by their number, from 1."""

    files: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def show(self, results: Sequence[Mapping[str, Any]]) -> str:
        """Give results as the text that a model reads, and take them in."""
        shown: list[str] = []
        for result in results:
            self.files.append((result.get("file_id") or "", result.get("filename") or ""))
            number = len(self.files)
            shown.append(f"【{number}】 {self.files[-1][1]}\n{result.get('text') or ''}")
        return "\n\n".join(shown) or "Nothing was found."

    def citations(self, text: str) -> list[dict[str, Any]]:
        """Give the annotations of a text; `index` is the character at which the citation stands."""
        cited: list[dict[str, Any]] = []
        for marker in _MARKER.finditer(text):
            number = int(marker[1]) - 1
            if 0 <= number < len(self.files):
                file_id, filename = self.files[number]
                cited.append(
                    {
                        "type": "file_citation",
                        "file_id": file_id,
                        "filename": filename,
                        "index": marker.start(),
                    }
                )
        return cited


def search_result(passage: Mapping[str, Any], score: float) -> dict[str, Any]:
    """Give a passage of vector_search as a result of a file search."""
    metadata: Mapping[str, Any] = passage.get("metadata") or {}
    name = passage.get("title") or metadata.get("filename") or passage["document"]
    return {
        "file_id": passage["document"],
        "filename": str(name),
        "score": score,
        "text": passage["text"],
        "attributes": attributes_of(metadata),
    }


def attributes_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what OpenAI's attributes can hold: 16 short texts, numbers and booleans."""
    fitting: dict[str, Any] = {}
    for name, value in metadata.items():
        if len(fitting) == _MOST_ATTRIBUTES:
            break
        if len(name) > _MOST_NAME or not isinstance(value, str | int | float):
            continue
        if isinstance(value, str):
            if len(value) <= _MOST_VALUE:
                fitting[name] = value
        elif _WHOLE[0] <= value <= _WHOLE[1]:
            fitting[name] = value
        elif abs(value) <= sys.float_info.max:  # a database gives 1e300 back as a whole number
            fitting[name] = float(value)
    return fitting
