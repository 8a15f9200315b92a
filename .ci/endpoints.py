"""Write docs/openai-endpoints.md from openai_facade/specification; with --check, only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from openai_facade.specification.support import (
    Support,
    key_of,
    openai_document,
    openai_operations,
    support,
)

PAGE = Path(__file__).parents[1] / "docs" / "openai-endpoints.md"
HEAD = """# OpenAI's endpoints, one by one

Made by `uv run python .ci/endpoints.py` from [`support.toml`](../openai_facade/specification/support.toml); a test holds both to the routes of the server
and to OpenAI's OpenAPI document {version}. The same as OpenAPI: `GET /openapi.json`. What stands behind a word is told in [The OpenAI face](openai.md).

- **supported**: does what OpenAI's API does
- **passed on**: goes to the model or to the upstream as it came
- **without effect**: taken and checked, but nothing follows from it here
- **refused**: 400 with the parameter's name

| endpoint | supported | passed on | without effect | refused |
|---|---|---|---|---|
"""
TAIL = """
Of the rest of OpenAI's document these are not served, and answer 404 (`unknown_url`) or 405:

"""


def page() -> str:
    """Return the text of the page."""
    rows = [row(each) for each in sorted(support().values(), key=place)]
    served = support().keys()
    absent = [
        f"`{method} {path}`"
        for method, path, _ in openai_operations()
        if key_of(method, path) not in served
    ]
    whole = ", ".join(f"`/{name}`" for name in openai_document()["x-others"])
    return (
        HEAD.format(version=openai_document()["info"]["version"])
        + "\n".join(rows)
        + "\n"
        + TAIL
        + "".join(f"- {each}\n" for each in absent)
        + f"- everything under {whole}\n"
    )


def place(each: Support) -> tuple[str, int]:
    """Sort by path, and within it as one reads."""
    return each.path, ("POST", "GET", "DELETE").index(each.method)


def row(each: Support) -> str:
    """Return the table's row of one endpoint."""
    kinds = (each.supported, each.passed_on, each.without_effect, each.refused)
    cells = [" ".join(f"`{name}`" for name in names) for names in kinds]
    note = f"<br>{each.note}" if each.note else ""
    return f"| `{each.method} {each.path}`{note} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/openai-endpoints.md is not up to date: run `uv run python .ci/endpoints.py`")
