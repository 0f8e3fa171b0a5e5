"""Scores by hand, intervals against their definition."""

import math

import numpy as np
import pytest

from experiments import bootstrap, scoring

INF = math.inf


def test_a_study_counts_by_its_fastest_trial_and_a_workload_by_the_median_study():
    studies = [[30.0, 10.0, INF], [INF, INF], [20.0, 50.0, 40.0]]
    assert scoring.study_times(studies) == [10.0, INF, 20.0]
    assert scoring.workload_time(studies) == 20.0
    assert scoring.workload_time([[1.0], [INF], [INF]]) == INF
    assert scoring.workload_time([[], [3.0], [4.0]]) == 4.0
    assert scoring.workload_time([]) == INF


TIMES = {
    "fast": {"a": 10.0, "b": 10.0, "c": INF, "d": INF},
    "slow": {"a": 20.0, "b": 50.0, "c": 7.0, "d": INF},
}


def test_ratios_are_to_the_best_and_infinite_above_four():
    assert scoring.ratios(TIMES) == {
        "fast": {"a": 1.0, "b": 1.0, "c": INF, "d": INF},
        "slow": {"a": 2.0, "b": INF, "c": 1.0, "d": INF},
    }
    exactly = scoring.ratios({"x": {"a": 1.0}, "y": {"a": 4.0}, "z": {"a": 4.0001}})
    assert [row["a"] for row in exactly.values()] == [1.0, 4.0, INF]
    assert scoring.ratios({"x": {"a": 0.0}, "y": {"a": 0.0}})["y"] == {"a": 1.0}
    assert scoring.ratios({"x": {"a": 1.0}, "y": {}})["y"] == {"a": INF}


def test_profiles_are_shares_of_workloads():
    found = scoring.profiles(TIMES, np.array([1.0, 1.99, 2.0, 4.0]))
    np.testing.assert_allclose(found["fast"], [0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(found["slow"], [0.25, 0.25, 0.5, 0.5])


def test_the_score_is_the_mean_of_the_profile():
    found = scoring.scores(TIMES)
    assert found["fast"] == pytest.approx(0.5, abs=1e-12)
    # ρ rises from 1/4 to 1/2 at τ = 2; a third of [1, 4] lies before. The grid blurs the step by one cell.
    cell = 3.0 / 99
    assert found["slow"] == pytest.approx(0.25 / 3 + 0.5 * 2 / 3, abs=cell / 3 / 4)
    assert scoring.scores({"only": {"a": INF}}) == {"only": 0.0}


def test_ratios_of_missed_targets():
    assert bootstrap.ratio(3.0, 2.0) == 1.5
    assert bootstrap.ratio(INF, 2.0) == INF
    assert bootstrap.ratio(2.0, INF) == 0.0
    assert math.isnan(bootstrap.ratio(INF, INF))


def test_an_interval_of_equal_studies_is_a_point_and_pairs_share_their_draws():
    assert bootstrap.ratio_interval([2.0] * 3, [4.0] * 3) == (0.5, 0.5)
    # Every study takes half as long as the same study of the reference, whatever is drawn.
    assert bootstrap.ratio_interval([1.0, 10.0, 100.0], [2.0, 20.0, 200.0]) == (0.5, 0.5)
    low, high = bootstrap.ratio_interval([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert (low, high) == (0.5, 1.5)


def test_an_interval_holds_infinity_where_draws_do():
    low, high = bootstrap.ratio_interval([1.0, 1.0, INF], [1.0, 1.0, 1.0])
    assert (low, high) == (1.0, INF)
    assert math.isnan(bootstrap.ratio_interval([INF] * 3, [INF] * 3).low)


def test_the_level_of_an_interval():
    low, high = bootstrap.interval(list(np.arange(1001.0)))
    assert (low, high) == (25.0, 975.0)


def test_intervals_of_scores_hold_the_scores():
    times = {"x": {"a": [1.0, 2.0, 3.0]}, "y": {"a": [2.0, 2.0, INF]}}
    found = bootstrap.score_intervals(times)
    medians = {name: {"a": float(np.median(row["a"]))} for name, row in times.items()}
    for name, score in scoring.scores(medians).items():
        assert found[name].low <= score <= found[name].high
    assert found["y"].low < found["y"].high


def test_a_workload_with_one_study_does_not_hide_the_spread_of_another():
    times = {"x": {"a": [1.0, 2.0, 3.0], "b": [5.0]}, "y": {"a": [2.0, 2.0, INF], "b": [5.0]}}
    found = bootstrap.score_intervals(times)
    assert found["y"].low < found["y"].high
    assert found["y"].low >= 0.5
