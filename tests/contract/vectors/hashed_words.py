"""An embedder for tests that need vectors but no meaning: words hashed into a few dimensions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from mcp_server.ingest.tokenise import tokenise


class HashedWords:
    """Texts that share words are near each other; equal texts have cosine 1."""

    def __init__(self, model: str = "hashed-words", dimensions: int = 64) -> None:
        self.model = model
        self.dimensions = dimensions
        self.calls: list[list[str]] = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls.append(list(texts))
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimensions
        for token in tokenise(text) or ["nothing"]:
            digest = hashlib.sha256(token.encode()).digest()
            place = int.from_bytes(digest[:4], "big") % self.dimensions
            vector[place] += 1.0 if digest[4] & 1 else -1.0
        length = math.sqrt(sum(value * value for value in vector)) or 1.0
        vector[0] += 0.0 if any(vector) else 1.0
        return [value / length for value in vector]
