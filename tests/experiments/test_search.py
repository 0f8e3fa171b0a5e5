"""Search: costs, choice of five points, budgets, Optuna's samplers and pruners."""

import json

import pytest

from experiments import search
from experiments.errors import ExperimentError
from experiments.search import MISSED, Listed, Tried
from experiments.search_command import main
from tests.experiments.made_up import record, spec
from tests.experiments.submissions_for_tests import write


def test_the_cost_is_a_share_of_the_budget():
    assert search.cost(record(250)) == 0.25
    assert search.cost(record(250, max_global_steps=500)) == 0.5
    assert search.cost(record(None)) == MISSED
    assert search.cost(record(reason="broken")) == MISSED
    assert search.cost(record(10), "seconds") == pytest.approx(1.0 / 20.0)


def test_chosen_points_complement_each_other():
    tried = [
        Tried({"x": 1}, {"a": 0.3, "b": 0.3}),
        Tried({"x": 2}, {"a": 0.31, "b": 0.31}),
        Tried({"x": 3}, {"a": 0.1, "b": MISSED}),
        Tried({"x": 4}, {"a": MISSED, "b": 0.2}),
        Tried({"x": 5}, {}),
        Tried({"x": 1}, {"a": 0.3, "b": 0.3}),
    ]
    chosen = [each.point["x"] for each in search.choose(tried, ["a", "b"], 3)]
    assert chosen == [1, 3, 4]
    with pytest.raises(ExperimentError, match="only 5 were tried"):
        search.choose(tried, ["a", "b"], 6)


def made_up_run(calls):
    """Trials on 'digits' take 1000 x steps; on 'rosenbrock' half of its 2000."""

    def run(specs):
        calls.append([(each.workload, each.trial) for each in specs])
        return [
            record(
                round(1000 * each.hyperparameters["x"]), workload=each.workload, trial=each.trial
            )
            for each in specs
        ]

    return run


TEMPLATES = [spec(workload="digits"), spec(workload="rosenbrock")]


def test_points_are_tried_on_every_workload_until_the_budget_is_used_up():
    calls = []
    proposals = [{"x": k / 10} for k in range(1, 9)]
    found = search.search(TEMPLATES, Listed(proposals), made_up_run(calls), points=5, at_a_time=2)
    assert [each.point for each in found] == proposals[:5]
    assert found[2].costs == {"digits": 0.3, "rosenbrock": 0.15}
    assert calls[:2] == [[("digits", 1), ("digits", 2)], [("rosenbrock", 1), ("rosenbrock", 2)]]
    assert len(calls) == 6
    assert len(search.search(TEMPLATES, Listed(proposals), made_up_run([]), points=99)) == 8


def test_a_budget_in_seconds():
    ticks = iter(range(100))
    found = search.search(
        TEMPLATES,
        Listed([{"x": 0.1}] * 9),
        made_up_run([]),
        points=9,
        seconds=3.5,
        clock=lambda: next(ticks),
    )
    assert len(found) == 3


RANGES = {
    "x": {"min": 0.01, "max": 1.0, "scaling": "log"},
    "y": {"feasible_points": ["p", "q"]},
}


@pytest.fixture
def optuna_space(tmp_path):
    pytest.importorskip("optuna", reason="Optuna is an extra: pip install optuna")
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(RANGES))
    return path


def test_optuna_proposes_within_the_ranges_and_goes_on_where_it_was(optuna_space, tmp_path):
    from experiments.optuna_proposer import OptunaProposer

    first = OptunaProposer(optuna_space, tmp_path, seed=1)
    found = search.search(TEMPLATES, first, made_up_run([]), points=6)
    for each in found:
        assert 0.01 <= each.point["x"] <= 1.0
        assert each.point["y"] in ("p", "q")
    _, interrupted = first.propose()
    second = OptunaProposer(optuna_space, tmp_path, seed=1)
    assert len([each for each in second.study.trials if each.value is not None]) == 6
    assert second.earlier() == found
    # The point that was under way comes first again, under a number of its own.
    calls = []
    more = search.search(TEMPLATES, second, made_up_run(calls), points=7)
    assert more[:6] == found
    assert more[6].point == interrupted
    assert calls == [[("digits", 7)], [("rosenbrock", 7)]]
    assert second.study.best_value == min(each.mean(["digits", "rosenbrock"]) for each in more)


def test_optunas_pruner_gives_points_up_after_a_workload(optuna_space, tmp_path):
    from experiments.optuna_proposer import OptunaProposer

    proposer = OptunaProposer(optuna_space, tmp_path, sampler="random", pruner="median")
    found = search.search(TEMPLATES, proposer, made_up_run([]), points=25)
    given_up = [each for each in found if len(each.costs) == 1]
    assert given_up
    # With a median pruner, what is given up is worse than half of what came before.
    assert min(each.costs["digits"] for each in given_up) > min(
        each.costs["digits"] for each in found
    )
    states = {each.state.name for each in proposer.study.trials}
    assert states == {"COMPLETE", "PRUNED"}


def test_optuna_needs_ranges(optuna_space, tmp_path):
    from experiments.optuna_proposer import distributions

    optuna_space.write_text("[{}]")
    with pytest.raises(ExperimentError, match="needs ranges"):
        distributions(optuna_space)


def test_the_command_writes_a_space_the_runner_accepts(tmp_path, capsys):
    pytest.importorskip("jax")
    name = write(tmp_path, "working")
    flags = [
        "--submission",
        name,
        "--workloads",
        "rosenbrock",
        "--framework",
        "jax",
        "--steps",
        "3",
    ]
    flags += ["--out", str(tmp_path / "out"), "--workers", "2", "--time-budget", "100"]
    assert main([*flags, "--points", "5"]) == 0
    assert "5 points tried" in capsys.readouterr().out
    space = tmp_path / "out/tuning_search_space.json"
    points = json.loads(space.read_text())
    assert len(points) == 5
    from workloads_extra.runner.search_space import load_trials

    assert [point._asdict() for point in load_trials(str(space), 5, 0)] == points
    assert main([*flags, "--points", "2"]) == 2
    assert "only 2 were tried" in capsys.readouterr().err
    assert main([*flags, "--pruner", "median"]) == 2
    assert "--pruner needs one of Optuna's samplers" in capsys.readouterr().err
