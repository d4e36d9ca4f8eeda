from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from facewright.gallery.index import HARDEST_MATCH, RECALL, SKETCH_BITS, Templates, turned


def filled(vectors: np.ndarray, **options: Any) -> Templates:
    templates = Templates(vectors.shape[1], **options)
    templates.put(np.arange(len(vectors)) + 100, vectors)
    return templates


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((40_000, 128), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_exact_search_ranks_as_a_full_sort(crowd: np.ndarray, unit: Any) -> None:
    queries = unit(1, 7, 128)
    found = filled(crowd).search(queries, 5)
    scores = queries @ crowd.T
    expected = np.argsort(-scores, axis=1)[:, :5]
    assert [[number - 100 for number, _ in hits] for hits in found] == expected.tolist()
    np.testing.assert_allclose(
        [[score for _, score in hits] for hits in found], np.take_along_axis(scores, expected, 1), atol=1e-6
    )


def test_fewer_templates_than_asked_for_and_none(unit: Any) -> None:
    vectors = unit(0, 3)
    assert len(filled(vectors).search(vectors[:1], 10)[0]) == 3
    assert len(filled(vectors, index_from=2).search(vectors[:1], 10)[0]) == 3
    assert Templates(32).search(vectors, 4) == [[], [], []]


def test_equal_scores_keep_the_order_of_enrolment(unit: Any) -> None:
    same = np.repeat(unit(0)[None], 6, axis=0)
    assert [number for number, _ in filled(same).search(same[:1], 6)[0]] == list(range(100, 106))


def test_turning_gives_exactly_that_cosine(unit: Any) -> None:
    vectors = unit(0, 50)
    probes = turned(vectors, 0.4, np.random.default_rng(0))
    np.testing.assert_allclose((probes * vectors).sum(1), 0.4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(probes, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("dimension", [32, 128, 512])
def test_sketches_differ_in_proportion_to_the_angle(dimension: int, unit: Any) -> None:
    vectors = unit(0, 400, dimension)
    for cosine in (0.9, HARDEST_MATCH, 0.0):
        probes = turned(vectors, cosine, np.random.default_rng(1))
        a, b = filled(vectors, index_from=1)._sketches, filled(probes, index_from=1)._sketches
        share = np.bitwise_count(a ^ b).sum(0) / SKETCH_BITS
        assert share.mean() == pytest.approx(np.arccos(cosine) / np.pi, abs=0.006)


def test_the_bound_is_the_binomial_quantile() -> None:
    exact = binom.ppf(RECALL, SKETCH_BITS, np.arccos(HARDEST_MATCH) / np.pi)
    assert Templates(64)._limit == pytest.approx(exact, abs=1)


def test_the_index_finds_what_exact_search_finds(crowd: np.ndarray) -> None:
    templates = filled(crowd, index_from=1000)
    assert templates.indexed
    assert templates.measure_recall(400) >= RECALL - 0.01
    assert templates.measure_recall(400, cosine=0.6) == 1
    near = templates._near(templates._sketches[:, 7])
    assert 7 in near
    assert len(near) < 0.05 * len(crowd), "the bound lets too many through to be worth it"


def test_measured_recall_notices_a_broken_index(crowd: np.ndarray) -> None:
    templates = filled(crowd[:2000], index_from=1000)
    templates._sketches[:, :1000] = 0
    assert templates.measure_recall() < 0.7


@pytest.mark.parametrize("index_from", [10, 10_000])
def test_changes_are_found_and_what_is_gone_is_not(index_from: int, unit: Any) -> None:
    vectors = unit(0, 60)
    templates = filled(vectors[:50], index_from=index_from)
    templates.put(np.array([103, 500]), vectors[50:52])
    assert len(templates) == 51

    def best(row: int) -> tuple[int, float]:
        return templates.search(vectors[row : row + 1], 1)[0][0]

    assert best(50) == (103, pytest.approx(1, abs=1e-6))
    assert best(51) == (500, pytest.approx(1, abs=1e-6))
    assert best(3)[1] < 0.9
    templates.keep(np.array([500, 101, 102]))
    assert len(templates) == 3
    assert best(51)[0] == 500
    assert {number for number, _ in templates.search(vectors[4:5], 10)[0]} == {500, 101, 102}
    templates.put(np.array([600]), vectors[55:56])
    assert best(55)[0] == 600


def test_growing_past_the_limit_row_by_row_indexes_all(unit: Any) -> None:
    vectors = unit(0, 30)
    templates = Templates(32, index_from=20)
    for row in range(30):
        templates.put(np.array([row]), vectors[row : row + 1])
        assert templates.indexed == (row >= 19)
    np.testing.assert_array_equal(templates._sketches[:, :30], filled(vectors, index_from=1)._sketches[:, :30])
