"""The demo's middle steps: search by meaning in two languages, and the journal of what happened."""

from __future__ import annotations

from typing import Any

import anyio

from mcp_server.commands.demo.screen import fit
from mcp_server.commands.demo.storing import packaged
from mcp_server.commands.demo.tour import StepFailed, Tour

STORE = "demo-notes"
_JOURNAL_SECONDS = 15.0
_JOURNAL_POLL_SECONDS = 0.2

# What is asked, in which languages it may be found, how, and the document that answers it.
_SEARCHES = (
    ("English", "why do bridges have to be tested in a wind tunnel", "en", "hybrid", "en/wind"),
    ("Chinese", "火车以前怎么渡过长江", "zh", "hybrid", "zh/过江"),
    (
        "English asks, Chinese answers",
        "oyster shells that glue stones together",
        "zh",
        "dense",
        "zh/洛阳桥",
    ),
    ("Chinese asks, English answers", "工人不断给钢桥刷油漆防止生锈", "en", "dense", "en/paint"),
)


def notes(language: str) -> list[tuple[str, str]]:
    """Return (document id, text) of the packaged notes in a language: one document per heading."""
    blocks = (block.partition("\n") for block in packaged(f"notes_{language}.md").split("# ")[1:])
    return [(f"{language}/{heading.strip()}", text.strip()) for heading, _, text in blocks]


async def vectors(tour: Tour) -> None:
    screen = tour.screen
    mine = {"type": "eq", "key": "tour", "value": tour.mark}
    tour.will_undo("vector_delete", store=STORE, filter=mine)
    for language in ("en", "zh"):
        await _add(tour, language)
    for title, query, language, mode, expected in _SEARCHES:
        screen.note(f"{title}:")
        within = {"type": "and", "filters": [mine, _is_language(language)]}
        found = await tour.call(
            "vector_search", store=STORE, query=query, mode=mode, k=3, filter=within
        )
        _show(tour, found["results"], f"{tour.mark}/{expected}", mode)


async def _add(tour: Tour, language: str) -> None:
    documents, chunks = notes(language), 0
    first = f'"store": "{STORE}", "document": "{documents[0][0]}", "text": "{documents[0][1]}"'
    tour.screen.call("vector_add", f"{{{fit(first, 80)}}} and {len(documents) - 1} more")
    for name, text in documents:
        added = await tour.call_unseen(
            "vector_add",
            store=STORE,
            document=f"{tour.mark}/{name}",
            text=text,
            metadata={"tour": tour.mark, "language": language},
        )
        chunks += added["chunks"]
    tour.screen.result(f"{len(documents)} documents, {chunks} chunks")


def _is_language(language: str) -> dict[str, Any]:
    return {"type": "eq", "key": "language", "value": language}


def _show(tour: Tour, results: list[dict[str, Any]], expected: str, mode: str) -> None:
    if not results:
        raise StepFailed("the search found nothing")
    tour.screen.table(
        ("score", "document", "text"),
        [
            (f"{result['score']:.3f}", _name(result, tour), fit(result["text"], 60))
            for result in results
        ],
    )
    if results[0]["document"] == expected:
        return
    wrong = f"{_name(results[0], tour)} came first instead of {expected.partition('/')[2]}"
    if mode != "dense":
        raise StepFailed(wrong)
    # Only the meaning can join two languages, and not every embedding model knows both.
    tour.screen.note(f"{wrong}: this server's embedding model does not join the two languages.")


def _name(result: dict[str, Any], tour: Tour) -> str:
    return str(result["document"]).removeprefix(f"{tour.mark}/")


async def changes(tour: Tour) -> None:
    """Read in the journal what this demo wrote; an event is there once no older write is under way."""
    value = f"kv://default/{tour.key}"
    note = f"object://{tour.bucket}/notes_en.md"
    table = f"sql://main/{tour.table}"
    only = {"type": "in", "key": "uri", "value": [table, value, note]}
    page: dict[str, Any] = {"items": []}
    with anyio.move_on_after(_JOURNAL_SECONDS):
        page = await tour.call("changes", filter=only)
        while [item["uri"] for item in page["items"]].count(value) < 2 or note not in {
            item["uri"] for item in page["items"]
        }:
            await anyio.sleep(_JOURNAL_POLL_SECONDS)
            page = await tour.call_unseen("changes", filter=only)
    tour.screen.table(
        ("verb", "uri", "version", "before"),
        [
            (item["verb"], item["uri"], item["version"] or "-", item["prev_version"] or "-")
            for item in page["items"]
        ],
    )
    if sum(item["uri"] == value for item in page["items"]) != 2:
        raise StepFailed(f"two writes to {value} were made, and the journal shows others")
    tour.screen.note(
        f"The refused write left nothing. What comes later: changes(after={page['next_after']!r})"
    )
