"""Making a checked statement one that is explained."""

from __future__ import annotations

from dataclasses import replace

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql import Checked

EXPLAINABLE = ("select", "insert", "update", "delete", "merge")


def explained(checked: Checked, *, analyze: bool) -> Checked:
    """Return EXPLAIN of a statement, which is run only with `analyze`.

    Raises:
        InvalidInput: it is none of select, insert, update, delete and merge.
    """
    if checked.kind not in EXPLAINABLE:
        raise InvalidInput(
            f"sql: {checked.kind.upper()} has no plan; give a {', '.join(EXPLAINABLE)} itself",
            param="sql",
        )
    options = "analyze, buffers off, format json" if analyze else "format json"
    return replace(
        checked,
        sql=f"explain ({options}) {checked.sql}",
        kind="explain",
        reads=checked.reads | checked.writes,
        writes=frozenset[str](),
        effects=analyze and checked.effects,
        edited=True,
    )
