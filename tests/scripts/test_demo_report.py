"""Table arithmetic, curves on a common axis, and the picture."""

import math
from pathlib import Path

import numpy as np
import pytest

from scripts.demo_job import plot, table
from scripts.demo_job.loop import Run
from scripts.demo_job.storage import RunSpec
from scripts.demo_job.tasks import TASKS


def reached(steps: int, seconds: float) -> Run:
    start = {"step": 0, "seconds": 0.0, "measure": 1.0}
    return Run([start, {"step": steps, "seconds": seconds, "measure": 0.01}], steps, seconds)


def missed() -> Run:
    return Run([{"step": 0, "seconds": 0.0, "measure": 1.0}])


def results(base: list[Run], llqr: list[Run]) -> table.Results:
    return {
        RunSpec(TASKS["classifier"], "torch", method, seed, Path()): run
        for method, runs in (("base", base), ("llqr", llqr))
        for seed, run in enumerate(runs)
    }


def test_a_missed_run_counts_as_infinity_in_the_median():
    summary = table.summarise([reached(10, 1.0), missed(), reached(30, 2.0)])
    assert summary.steps == (10.0, math.inf, 30.0)
    assert summary.seconds == (1.0, math.inf, 2.0)
    assert summary.reached == 2


@pytest.mark.parametrize(
    ("values", "base", "expected"),
    [
        ((10, 20, 30), (40, 40, 80), 0.5),
        ((10, math.inf, 30), (10, 20, 1000), 1.5),
        ((10, math.inf, math.inf), (10, 20, 30), math.inf),
        ((10, 20, 30), (10, math.inf, math.inf), 0.0),
    ],
)
def test_the_ratio_is_that_of_the_medians(values, base, expected):
    assert table.ratio(values, base) == expected


def test_no_ratio_where_neither_reaches_the_target():
    assert math.isnan(table.ratio((math.inf,) * 3, (math.inf,) * 3))


def test_the_table_shows_medians_ranges_ratios_and_missed_runs():
    text = table.render(
        results(
            [reached(100, 1.0), reached(200, 2.0), reached(300, 3.0)],
            [reached(50, 4.0), missed(), reached(40, 3.0)],
        )
    )
    base, llqr = text.splitlines()[2:4]
    assert "3/3" in base and "200 (100 to 300)" in base and "2 (1 to 3)" in base
    assert "2/3" in llqr and "50 (40 to missed)" in llqr and "0.25" in llqr
    assert "4 (3 to missed)" in llqr and llqr.endswith(")  2")


def curves(*tracks):
    return [
        Run([{"step": s, "seconds": s / 2, "measure": m} for s, m in track]) for track in tracks
    ]


def test_curves_meet_on_one_axis_with_the_best_value_so_far():
    runs = curves(((0, 8.0), (10, 4.0)), ((0, 6.0), (10, 7.0), (20, 1.0)), ((0, 7.0),))
    grid, lines = plot.spread(runs, "step", points=5)
    np.testing.assert_array_equal(grid, [0, 5, 10, 15, 20])
    np.testing.assert_array_equal(lines, [[6, 6, 4, 4, 1], [7, 7, 6, 6, 4], [8, 8, 7, 7, 7]])
    np.testing.assert_array_equal(plot.spread(runs, "seconds", points=5)[0], grid / 2)


def test_a_logarithmic_grid_holds_the_start_and_the_end():
    runs = curves(((0, 8.0), (1, 4.0), (2, 1.0)), ((0, 8.0), (4, 2.0)))
    grid, lines = plot.spread(runs, "step", points=4, logarithmic=True)
    np.testing.assert_allclose(grid, [0.5, 1, 2, 4])
    np.testing.assert_array_equal(lines[0], [8, 4, 1, 1])
    np.testing.assert_array_equal(lines[2], [8, 8, 8, 2])


def test_a_value_that_is_not_a_number_does_not_hide_the_best_one():
    _, lines = plot.spread(curves(((0, 8.0), (1, 4.0), (2, math.nan))), "step", points=3)
    np.testing.assert_array_equal(lines[1], [8, 4, 4])


def test_the_picture_is_a_png(tmp_path):
    path = tmp_path / "deep" / "curves.png"
    plot.draw(results([reached(10, 1.0)], [missed()]), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]
