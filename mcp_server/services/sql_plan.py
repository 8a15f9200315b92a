"""PostgreSQL's plan of a statement, as JSON and as short text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from typing_extensions import TypedDict

# A plan deeper or longer than this is cut in the text; the JSON has it whole.
_MAX_LINES = 200
_CONDITIONS = ("Index Cond", "Hash Cond", "Merge Cond", "Join Filter", "Recheck Cond", "Filter")
_MAX_CONDITION = 120


class SqlPlan(TypedDict):
    """`plan` is PostgreSQL's EXPLAIN (FORMAT JSON); costs are in its units, times in milliseconds.

    `rows` is the estimate, or with `analyzed` what the statement really returned.
    """

    plan: dict[str, Any]
    text: str
    analyzed: bool
    total_cost: float | None
    rows: float | None
    milliseconds: float | None


def sql_plan(answer: Any, *, analyzed: bool) -> SqlPlan:
    """Return the plan from the one cell that EXPLAIN (FORMAT JSON) answers with."""
    plan = cast("dict[str, Any]", answer[0] if isinstance(answer, list) else answer)
    root = plan.get("Plan", {})
    lines = list(_lines(root))
    if len(lines) > _MAX_LINES:
        lines = [*lines[:_MAX_LINES], f"… {len(lines) - _MAX_LINES} more lines; see plan"]
    if analyzed:
        lines.append(f"planned in {plan['Planning Time']} ms, ran in {plan['Execution Time']} ms")
    return SqlPlan(
        plan=plan,
        text="\n".join(lines),
        analyzed=analyzed,
        total_cost=root.get("Total Cost"),
        rows=root.get("Actual Rows" if analyzed else "Plan Rows"),
        milliseconds=plan.get("Execution Time"),
    )


def _lines(root: dict[str, Any]) -> Iterator[str]:
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        yield "  " * depth + _line(node)
        stack.extend((child, depth + 1) for child in reversed(node.get("Plans", [])))


def _line(node: dict[str, Any]) -> str:
    """`Index Scan using i on t (cost 8.3, rows 1, really 2 × 1): Index Cond (a = 1)`."""
    words = [str(node.get("Operation") or node.get("Node Type", "?"))]
    if "Operation" in node and "Relation Name" not in node:
        words.append(str(node.get("Node Type", "")))
    if "Index Name" in node:
        words.append(f"using {node['Index Name']}")
    if "Relation Name" in node:
        words.append(f"on {node['Relation Name']}")
    elif "CTE Name" in node:
        words.append(f"on {node['CTE Name']}")
    facts = [f"cost {node.get('Total Cost')}", f"rows {node.get('Plan Rows')}"]
    if "Actual Rows" in node:
        facts.append(f"really {node['Actual Rows']} × {node.get('Actual Loops')}")
    found = [f"{name} {str(node[name])[:_MAX_CONDITION]}" for name in _CONDITIONS if name in node]
    return f"{' '.join(words)} ({', '.join(facts)})" + (f": {'; '.join(found)}" if found else "")
