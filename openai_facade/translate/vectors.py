"""Embedding vectors in the two encodings of the wire."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence


def encode_base64(vector: Sequence[float]) -> str:
    """Give a vector as base64 of little-endian 32-bit floats, which is what OpenAI's SDKs decode."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
