"""The order that pages rely on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcp_server.services.objects.listing import successor

TEXT = st.text(st.characters(codec="utf-8"), max_size=4) | st.text(
    st.sampled_from(["a", "\ud7ff", "\ue000", "\U0010ffff", "/", "0"]), max_size=4
)


@given(TEXT, TEXT)
def test_the_successor_stands_after_exactly_what_begins_with_the_prefix(
    prefix: str, other: str
) -> None:
    after = successor(prefix)
    for text in (other, prefix + other):
        inside = text.encode() >= prefix.encode() and (
            after is None or text.encode() < after.encode()
        )
        assert inside == text.startswith(prefix)
