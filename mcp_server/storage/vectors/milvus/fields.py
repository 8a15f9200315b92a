"""What Milvus holds of a chunk, and filters over it: nothing that a caller wrote stands in an expression.

Names and values are hashed or written in hexadecimal, so no expression can be escaped from. An expression may
let too much through, never too little: the rows decide in the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from mcp_server.filters import Comparison, Filter, Scalar
from mcp_server.storage.vectors import Batch, Restriction, Store
from mcp_server.storage.vectors.ranking import K1, B

# Chunks have about as many tokens; the rows rank anew with the true mean.
MEAN_TOKENS = 128
# What one expression may list.
MAX_LISTED = 1024
# Milvus keeps 2**32 - 1 for itself.
_SPARSE_PLACES = 2**32 - 1


def entity_rows(batch: Batch) -> list[dict[str, Any]]:
    """Return a batch as Milvus takes it."""
    shared: dict[str, Any] = {
        "tenant": tenant_key(batch.store.tenant),
        "store": batch.store.id,
        "generation": batch.generation,
        "document": _hex(batch.document),
        "labels": labels_of(batch.metadata),
        "numbers": numbers_of(batch.metadata),
    }
    return [
        shared | {"id": entry.id, "dense": entry.vector, "sparse": term_weights(entry.tokens)}
        for entry in batch.entries
    ]


def term_weights(tokens: Sequence[str]) -> dict[int, float]:
    """Return the weights of a chunk's tokens in BM25, without their rarity; never empty."""
    length = 1 - B + B * len(tokens) / MEAN_TOKENS
    weights: dict[int, float] = {}
    for token, times in Counter(tokens).items():
        place = sparse_place(token)
        weights[place] = weights.get(place, 0.0) + times * (K1 + 1) / (times + K1 * length)
    return weights or {_SPARSE_PLACES - 1: 1e-9}


def sparse_place(token: str) -> int:
    """Return a token's dimension; two that share one are told apart by the rows."""
    return int.from_bytes(_hash(token, 8), "big") % (_SPARSE_PLACES - 1)


def labels_of(metadata: Mapping[str, Any]) -> list[int]:
    """Return a number for each key with a scalar value; 16 KiB of metadata have at most 2,730."""
    return [_label(key, value) for key, value in metadata.items() if _is_scalar(value)]


def numbers_of(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of the metadata as doubles under hashed keys."""
    return {
        _number_key(key): _double(value)
        for key, value in metadata.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def within_store(store: Store) -> str:
    """Return the condition for a store's entries, its tenant's alone."""
    if not store.id.removeprefix("vs_").isalnum():
        raise ValueError(f"{store.id!r} is no store's id")
    return f'tenant == "{tenant_key(store.tenant)}" and store == "{store.id}"'


def in_generations(generations: Sequence[int]) -> str:
    return f"generation in [{', '.join(str(int(each)) for each in generations)}]"


def restricted(store: Store, restriction: Restriction) -> str:
    """Return an expression that lets all through that a restriction admits, and little else."""
    parts = [within_store(store)]
    if restriction.prefixes is not None:
        liked = [f'document like "{_hex(prefix)}%"' for prefix in restriction.prefixes]
        parts.append(f"({' or '.join(liked)})" if liked else "generation == -1")
    if restriction.filter is not None:
        admitted = _admitting(restriction.filter)
        if admitted is not None:
            parts.append(f"({admitted})")
    return " and ".join(parts)


def _admitting(node: Filter) -> str | None:
    """Return an expression that admits at least what a filter does, None for everything."""
    if isinstance(node, Comparison):
        return _comparison(node)
    parts = [_admitting(item) for item in node.filters]
    known = [part for part in parts if part is not None]
    if node.type == "or":
        return f"({' or '.join(known)})" if len(known) == len(parts) else None
    return f"({' and '.join(known)})" if known else None


def _comparison(node: Comparison) -> str | None:
    value = node.value
    match node.type:
        case "eq" | "ne":
            if isinstance(value, tuple):
                return None
            held = f"array_contains(labels, {_label(node.key, value)})"
            return held if node.type == "eq" else f"not {held}"
        case "in" | "nin":
            if not isinstance(value, tuple) or len(value) > MAX_LISTED:
                return None
            if not value:
                return "generation == -1" if node.type == "in" else None
            listed = ", ".join(str(_label(node.key, item)) for item in value)
            held = f"array_contains_any(labels, [{listed}])"
            return held if node.type == "in" else f"not {held}"
        case _:
            if isinstance(value, str | bool | tuple):
                return None  # texts are ordered by the rows
            # Two numbers may be one double: only the rows tell them apart.
            sign = ">=" if node.type in {"gt", "gte"} else "<="
            return f'numbers["{_number_key(node.key)}"] {sign} {_double(value)!r}'


def _label(key: str, value: Scalar) -> int:
    """Return the number of a key with a value; equal values of one kind have one."""
    match value:
        case bool():
            kind, plain = "b", str(value)
        case str():
            kind, plain = "t", value
        case _:
            # The decimal that JSON writes: 1 and 1.0 and 1e0 are equal.
            kind, plain = "n", format(_plain(value), "E")
    digest = _hash(f"{len(key)}:{key}{kind}{plain}", 8)
    return int.from_bytes(digest, "big") >> 1  # a signed 64-bit integer


def _plain(value: float) -> Decimal:
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return number.normalize() if number else Decimal(0)


def _double(value: float) -> float:
    try:
        return max(-1.7e308, min(1.7e308, float(value)))
    except OverflowError:
        return math.copysign(1.7e308, 1 if value > 0 else -1)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bool | int | float)


def tenant_key(tenant: str) -> str:
    """Return what stands for a tenant's name: the partition key."""
    return _hash(tenant, 16).hex()


def _number_key(key: str) -> str:
    return f"n{_hash(key, 8).hex()}"


def _hex(text: str) -> str:
    return text.encode().hex()


def _hash(text: str, size: int) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
