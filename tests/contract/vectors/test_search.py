"""Searches on the real database: results, filters, BM25, exact words, bounds."""

from __future__ import annotations

import math

import pytest

from mcp_server.auth.principal import Principal
from mcp_server.services.vectors import Mode, VectorService
from tests.contract.vectors.reading import MODES, found


@pytest.mark.parametrize("mode", MODES)
async def test_a_document_is_found_with_everything_the_contract_promises(
    vectors: VectorService, principal: Principal, mode: Mode
) -> None:
    body = "  The quick brown fox jumps over the lazy dog.\n"
    metadata = {"kind": "animal", "legs": 4, "tail": {"bushy": True}}
    added = await vectors.add(principal, "zoo", body, document="fox", metadata=metadata)
    assert added == {"store": "zoo", "document": "fox", "chunks": 1}
    [result] = (await vectors.search(principal, "zoo", "brown fox", mode=mode))["results"]
    assert result["score"] > 0
    assert {key: value for key, value in result.items() if key != "score"} == {
        "document": "fox",
        "chunk": 0,
        "text": "The quick brown fox jumps over the lazy dog.",
        "metadata": metadata,
        "start": 2,
        "end": 46,
    }


@pytest.mark.parametrize("mode", MODES)
async def test_a_filter_holds_before_the_best_are_chosen(
    vectors: VectorService, principal: Principal, mode: Mode
) -> None:
    for number in range(30):
        common = {"lang": "zh" if number == 17 else "en", "n": number}
        text = "needle " * (1 if number == 17 else 3) + f"word{number}"
        await vectors.add(principal, "s", text, document=f"d{number:02}", metadata=common)
    only = {"type": "eq", "key": "lang", "value": "zh"}
    assert found(await vectors.search(principal, "s", "needle", k=1, filter=only, mode=mode)) == [
        "d17"
    ]
    some = {
        "type": "and",
        "filters": [
            {"type": "in", "key": "n", "value": [3, 4, 17, 99]},
            {"type": "ne", "key": "lang", "value": "zh"},
        ],
    }
    answer = await vectors.search(principal, "s", "needle", k=100, filter=some, mode=mode)
    assert sorted(found(answer)) == ["d03", "d04"]


def bm25(query: list[str], texts: dict[str, list[str]]) -> dict[str, float]:
    """The formula of Robertson and Zaragoza with k1 = 1.2 and b = 0.75, computed the plain way."""
    average = sum(map(len, texts.values())) / len(texts)
    scores: dict[str, float] = {}
    for name, words in texts.items():
        for term in query:
            holding = sum(term in other for other in texts.values())
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            times = words.count(term)
            weight = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(words) / average))
            scores[name] = scores.get(name, 0) + idf * weight
    return {name: score for name, score in scores.items() if score}


async def test_text_mode_ranks_by_bm25(vectors: VectorService, principal: Principal) -> None:
    texts = {
        "common": "common common common common",
        "short": "common rare",
        "long": "common rare " + "filler " * 40,
        "often": "rare rare rare common",
        "none": "unrelated",
    }
    for name, body in texts.items():
        await vectors.add(principal, "s", body, document=name)
    answer = await vectors.search(principal, "s", "Rare common common absent", mode="text")
    words = {name: body.split() for name, body in texts.items()}
    expected = bm25(["rare", "common", "common", "absent"], words)
    assert found(answer) == sorted(expected, key=expected.__getitem__, reverse=True)
    for result in answer["results"]:
        assert result["score"] == pytest.approx(expected[result["document"]], rel=1e-6)


async def test_an_exact_identifier_and_its_parts_are_found_by_words(
    vectors: VectorService, principal: Principal
) -> None:
    await vectors.add(principal, "s", "Set ISTHMUS_DATA_DIR to move it.", document="setting")
    await vectors.add(principal, "s", "See incident ERR-4711, fixed in v2.3.1.", document="error")
    await vectors.add(principal, "s", "调用 vector_search 工具来检索文档。", document="tool")
    for query, document in [
        ("isthmus_data_dir", "setting"),
        ("data dir", "setting"),
        ("ERR-4711", "error"),
        ("v2.3.1", "error"),
        ("vector_search", "tool"),
        ("检索", "tool"),
    ]:
        answer = await vectors.search(principal, "s", query, mode="text")
        assert found(answer) == [document], query
    assert found(await vectors.search(principal, "s", "?!…", mode="text")) == []


async def test_k_bounds_the_answer(vectors: VectorService, principal: Principal) -> None:
    for number in range(12):
        await vectors.add(principal, "s", f"same words {number}", document=f"d{number}")
    for mode in MODES:
        for k in (1, 5, 100):
            answer = await vectors.search(principal, "s", "same words", k=k, mode=mode)
            assert len(set(found(answer))) == min(k, 12)
