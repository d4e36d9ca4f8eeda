"""Error rates of presentation attack detection: worked examples, styles of the EER, intervals, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.metrics import presentation as pad

NAN = float("nan")

# Ten bona fide presentations, ten prints, five replays; threshold 0.5.
# Bona fide: two at or above 0.5 -> BPCER 0.2. Prints: one below -> APCER 0.1. Replays: two below -> APCER 0.4.
BONA = [0.05, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.5, 0.8]
PRINT = [0.3, 0.6, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 0.95]
REPLAY = [0.2, 0.45, 0.5, 0.9, 0.99]
SCORES = np.array(BONA + PRINT + REPLAY)
SPECIES = np.array(["live"] * 10 + ["print"] * 10 + ["replay"] * 5)
ATTACK = SPECIES != "live"


def test_rates_by_hand() -> None:
    rates = pad.error_rates(SCORES, SPECIES, 0.5)
    assert rates.apcer == pytest.approx({"print": 0.1, "replay": 0.4})
    assert rates.bpcer == pytest.approx(0.2)
    assert (rates.worst_species, rates.worst_apcer) == ("replay", pytest.approx(0.4))
    assert rates.acer == pytest.approx(0.3)
    assert rates.counts == {"live": 10, "print": 10, "replay": 5}
    # pooled, 3 of 15 attacks are missed: the pooled rate hides the replays
    assert pad.hter(SCORES, ATTACK, 0.5) == pytest.approx((3 / 15 + 0.2) / 2)


def test_no_decision_is_no_error() -> None:
    scores = SCORES.copy()
    scores[[9, 10, 20]] = NAN  # a false alarm, and one missed attack of each species
    rates = pad.error_rates(scores, SPECIES, 0.5)
    assert rates.bpcer == pytest.approx(1 / 9)
    assert rates.apcer == pytest.approx({"print": 0.0, "replay": 0.25})
    assert rates.bpnrr == pytest.approx(0.1)
    assert rates.apnrr == pytest.approx({"print": 0.1, "replay": 0.2})
    scores[20:] = NAN
    with pytest.raises(UsageError, match="no presentation of species 'replay' has a decision"):
        pad.error_rates(scores, SPECIES, 0.5)


def test_bpcer_at_apcer_looks_at_the_worst_species() -> None:
    # APCER of both species at most 0.2: one replay and two prints may be missed -> threshold min(0.45, 0.6) = 0.45
    assert pad.threshold_at_apcer(SCORES, SPECIES, 0.2) == pytest.approx(0.45)
    assert pad.bpcer_at_apcer(SCORES, SPECIES, 0.2) == pytest.approx(0.2)
    # none may be missed: threshold at the lowest attack, 0.2 -> seven bona fide at or above
    assert pad.bpcer_at_apcer(SCORES, SPECIES, 0.0) == pytest.approx(0.7)
    rates = pad.error_rates(SCORES, SPECIES, pad.threshold_at_apcer(SCORES, SPECIES, 0.1))
    assert rates.worst_apcer <= 0.1
    assert pad.threshold_at_bpcer(SCORES, ATTACK, 0.1) == pytest.approx(0.6)


def test_equal_errors_in_every_style() -> None:
    scores, attack = np.array([0.1, 0.2, 0.6, 0.4, 0.7, 0.9]), np.array([0, 0, 0, 1, 1, 1], bool)
    # at 0.6: one of three rejected, one of three missed
    for style in ("exact", "nearest", "grid"):
        assert pad.eer(scores, attack, style).rate == pytest.approx(1 / 3)
    assert pad.eer(scores, attack).threshold == pytest.approx(0.6)
    assert pad.eer(scores, attack, "grid").threshold == pytest.approx(0.6)  # the last threshold with equal rates
    uneven, kinds = np.array([0.1, 0.6, 0.4, 0.7, 0.9]), np.array([0, 0, 1, 1, 1], bool)
    # ROC (far, missed): (0, 1/3), (.5, 1/3), (.5, 0): both equal at 1/3 on the level part
    assert pad.eer(uneven, kinds).rate == pytest.approx(1 / 3)
    assert pad.eer(uneven, kinds, "nearest").rate == pytest.approx(0.5)
    assert pad.eer(uneven, kinds, "grid").rate == pytest.approx((0.5 + 1 / 3) / 2)
    # the hull runs from (0, 1/3) to (.5, 0): x = 1/3 − 2x/3
    assert pad.eer(uneven, kinds, "convex").rate == pytest.approx(1 / 5)
    with pytest.raises(UsageError, match="no style"):
        pad.eer(uneven, kinds, "other")  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["exact", "convex", "nearest"])
def test_equal_errors_of_perfect_and_of_inverted_scores(style: pad.EerStyle) -> None:
    attack = [False, False, True, True]
    assert pad.eer([0.1, 0.2, 0.8, 0.9], attack, style).rate == 0.0
    assert pad.eer([0.8, 0.9, 0.1, 0.2], attack, style).rate >= 0.5
    with pytest.raises(UsageError, match="one kind is missing"):
        pad.eer([NAN, 0.2], [False, True], style)


def test_rates_at_nearest_points_say_what_was_reached() -> None:
    scores, attack = [0.9, 0.8, 0.7, 0.3, 0.6, 0.4, 0.2, 0.1], [True] * 4 + [False] * 4
    # APCER, BPCER at thresholds .3: 0, .5; .4: .25, .5; .6: .25, .25; .7: .25, 0
    assert pad.bpcer_at_nearest_apcer(scores, attack, 0.25) == (0.5, 0.25)  # the smallest threshold of three
    assert pad.bpcer_at_nearest_apcer(scores, attack, 0.01) == (1.0, 0.0)
    assert pad.apcer_at_nearest_bpcer(scores, attack, 0.1) == (0.25, 0.0)


def test_oracle_and_development_thresholds_differ() -> None:
    rng = np.random.default_rng(0)
    attack = np.repeat([False, True], 200)
    development = rng.normal(attack * 2.0, 1.0)
    test = rng.normal(attack * 2.0 + 1.5, 1.0)  # another camera moves all scores
    honest, threshold = pad.hter_dev(test, attack, development, attack)
    assert threshold == pytest.approx(1.0, abs=0.2)
    assert honest > pad.hter_oracle(test, attack) + 0.1
    assert pad.hter_oracle(test, attack) == pytest.approx(pad.eer(test, attack).rate, abs=0.01)
    assert pad.auc(test, attack) == pytest.approx(pad.auc(test + 5, attack))
    assert pad.auc([0.0, 0.5, 0.5, 1.0], [False, False, True, True]) == pytest.approx(7 / 8)


def test_intervals() -> None:
    low, high = pad.clopper_pearson(0, 100)
    assert (low, high) == (0.0, pytest.approx(0.0362, abs=1e-4))
    assert pad.clopper_pearson(10, 100) == (pytest.approx(0.0490, abs=1e-4), pytest.approx(0.1762, abs=1e-4))
    with pytest.raises(UsageError, match="3 errors in 2"):
        pad.clopper_pearson(3, 2)


def test_clients_are_resampled_whole() -> None:
    clients = np.repeat(["a", "b", "c", "d"], 50)
    wrong = np.repeat([0.0, 0.0, 0.0, 1.0], 50)  # all errors are one client's
    low, high = pad.client_bootstrap(lambda rows: float(wrong[rows].mean()), clients)
    assert low == 0.0
    assert high >= 0.5  # frames by themselves would say 0.25 ± 0.06
    seen: list[int] = []
    pad.client_bootstrap(lambda rows: seen.append(len(rows)) or 0.0, clients, replicates=5)  # type: ignore[func-returns-value]
    assert set(seen) == {200}


def test_videos_are_means_of_their_frames() -> None:
    names, means, first = pad.by_video([0.2, 0.9, 0.4, NAN, NAN], ["b", "a", "b", "a", "c"])
    assert names.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(means, [0.9, 0.3, NAN])
    assert first.tolist() == [1, 0, 4]


@pytest.mark.parametrize("kinds", [["live", "live"], ["print", "print"]])
def test_one_kind_alone_is_refused(kinds: list[str]) -> None:
    with pytest.raises(UsageError, match="one kind is missing"):
        pad.error_rates([0.1, 0.2], kinds, 0.5)
    with pytest.raises(UsageError, match="one kind is missing"):
        pad.eer([0.1, 0.2], [kind != "live" for kind in kinds])
