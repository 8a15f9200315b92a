"""With the embedded model, questions in English and Chinese find the passages that answer them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.ingest.embed import open_embedder
from mcp_server.operation import Operations
from mcp_server.services.vectors import Mode, VectorService
from mcp_server.settings import Settings
from mcp_server.storage.vectors import open_vectors
from tests.conftest import make_tenant
from tests.contract.vectors import corpus, corpus_more
from tests.contract.vectors.reading import MODES

Questions = list[tuple[str, str]]

ENGLISH = corpus.ENGLISH | corpus_more.ENGLISH
CHINESE = corpus.CHINESE | {name: row[:2] for name, row in corpus_more.CHINESE.items()}
ENGLISH_QUESTIONS: Questions = [(name, row[1]) for name, row in ENGLISH.items() if row[1]]
CROSS_QUESTIONS: Questions = [(name, row[2]) for name, row in ENGLISH.items() if row[2]]
CHINESE_QUESTIONS: Questions = [(name, row[1]) for name, row in CHINESE.items() if row[1]]
BACK_QUESTIONS: Questions = [(name, row[2]) for name, row in corpus_more.CHINESE.items() if row[2]]
MORE: dict[str, Questions] = {
    "English": [(name, row[1]) for name, row in corpus_more.ENGLISH.items() if row[1]],
    "Chinese": [(name, row[1]) for name, row in corpus_more.CHINESE.items() if row[1]],
    "Chinese asks, English answers": [
        (name, row[2]) for name, row in corpus_more.ENGLISH.items() if row[2]
    ],
    "English asks, Chinese answers": BACK_QUESTIONS,
}


@dataclass(frozen=True)
class Library:
    vectors: VectorService
    reader: Principal

    async def recall(self, questions: Questions, mode: Mode, language: str | None) -> float:
        """Return the share of questions whose passage is among the first five."""
        only = {"type": "eq", "key": "language", "value": language} if language else None
        found = 0
        for name, question in questions:
            answer = await self.vectors.search(
                self.reader, "library", question, k=5, mode=mode, filter=only
            )
            found += name in [result["document"] for result in answer["results"]]
        return found / len(questions)


@pytest.fixture(scope="module")
async def library(control: AsyncEngine, operations: Operations) -> AsyncIterator[Library]:
    reader = await make_tenant(control)
    texts: Sequence[tuple[str, str, str]] = [
        *((name, row[0], "en") for name, row in ENGLISH.items()),
        *((name, row[0], "zh") for name, row in CHINESE.items()),
    ]
    async with open_embedder(Settings()) as embedder, open_vectors(None, control) as engine:
        vectors = VectorService(operations, control, engine, embedder)
        for name, text, language in texts:
            await vectors.add(
                reader, "library", text, document=name, metadata={"language": language}
            )
        yield Library(vectors, reader)


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
async def test_questions_find_their_passage(library: Library, mode: Mode) -> None:
    figures = {
        "English": await library.recall(ENGLISH_QUESTIONS, mode, None),
        "Chinese": await library.recall(CHINESE_QUESTIONS, mode, None),
        "Chinese asks, English answers": await library.recall(CROSS_QUESTIONS, mode, "en"),
    }
    print(mode, figures)
    assert min(figures.values()) >= 0.9, figures


async def test_both_rankings_together_find_at_least_what_the_better_one_does(
    library: Library,
) -> None:
    """The questions of `corpus_more` were written after the weights of the fusion were fixed."""
    figures: dict[str, dict[str, float]] = {}
    for mode in MODES:
        found = {name: await library.recall(asked, mode, None) for name, asked in MORE.items()}
        total = sum(len(asked) for asked in MORE.values())
        found["all"] = sum(found[name] * len(asked) for name, asked in MORE.items()) / total
        figures[mode] = {name: round(value, 3) for name, value in found.items()}
        print(
            f"recall@5, {total} questions, {len(ENGLISH) + len(CHINESE)} passages",
            mode,
            figures[mode],
        )
    assert len(ENGLISH) + len(CHINESE) >= 100
    assert sum(len(asked) for asked in MORE.values()) >= 40
    assert figures["hybrid"]["all"] >= max(figures["dense"]["all"], figures["text"]["all"])
    assert figures["hybrid"]["all"] >= 0.9


async def test_words_alone_find_less_than_both(library: Library) -> None:
    alone = await library.recall(ENGLISH_QUESTIONS, "text", None)
    print("text", alone, await library.recall(CHINESE_QUESTIONS, "text", None))
    assert 0.5 < alone < await library.recall(ENGLISH_QUESTIONS, "hybrid", None)


async def test_dense_scores_are_cosines(library: Library) -> None:
    passage = ENGLISH["moon"][0]
    best, second, *_ = (
        await library.vectors.search(library.reader, "library", passage, mode="dense")
    )["results"]
    assert best["document"] == "moon"
    assert best["score"] == pytest.approx(1, abs=1e-4)
    assert -1 <= second["score"] < 0.9
