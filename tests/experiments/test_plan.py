"""Submissions by name, points, and the list of trials."""

import argparse
import json
from pathlib import Path

import pytest

from experiments import options, points, submissions, trial
from experiments.errors import ExperimentError
from experiments.plan import Budget, Limits, make_plan
from workloads_extra.runner.options import parse

BOTH = ["jax", "pytorch"]


def test_names_stand_for_folders():
    found = submissions.find(["adamw", "self_tuning/llqr", "llqr_jax"], BOTH)
    assert [(each.name, each.ruleset) for each in found] == [
        ("adamw_jax", "external"),
        ("adamw_pytorch", "external"),
        ("llqr_self_tuning_jax", "self"),
        ("llqr_self_tuning_pytorch", "self"),
        ("llqr_jax", "external"),
    ]
    assert found[2].space is None
    for each in found:
        assert (submissions.ROOT / each.path).is_file()


def test_a_submission_of_one_framework_is_used_where_it_exists():
    assert [each.framework for each in submissions.find(["soap"], BOTH)] == ["pytorch"]


def test_a_folder_anywhere_and_a_search_space_of_choice(tmp_path):
    folder = tmp_path / "mine_jax"
    folder.mkdir()
    (folder / "submission.py").touch()
    space = tmp_path / "space.json"
    space.write_text("[{}]")
    (found,) = submissions.find([f"{folder}={space}"], BOTH)
    assert (found.label, found.framework, found.ruleset) == ("mine", "jax", "external")
    assert found.space == str(space)
    with pytest.raises(ExperimentError, match="has no search space"):
        submissions.find([str(folder)], BOTH)


def test_one_submission_under_several_labels():
    spaces = "tuning_search_spaces/ablations"
    names = [f"{kind}:llqr_variant={spaces}/{kind}.json" for kind in ("fitted", "identity")]
    found = submissions.find(names, ["jax"])
    assert [(each.name, each.space) for each in found] == [
        ("fitted_jax", f"{spaces}/fitted.json"),
        ("identity_jax", f"{spaces}/identity.json"),
    ]
    assert found[0].path == found[1].path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nobody"], "no submission is named 'nobody'.*known:.*baselines/adamw"),
        (["adamw", "baselines/adamw"], "adamw_jax.*twice"),
        (["self_tuning/llqr=x.json"], "takes no search space"),
        (["adamw=nowhere.json"], "none of nowhere.json exists"),
    ],
)
def test_wrong_names_are_explained(names, message):
    with pytest.raises(ExperimentError, match=message):
        submissions.find(names, BOTH)


def test_every_known_submission_can_be_found_with_points_of_either_kind():
    for kind in ("listed", "ranges"):
        for name in (name for name in submissions.known() if not name.startswith("ablations/")):
            for each in submissions.find([name], BOTH, kind):
                if each.space is not None:
                    assert len(points.of_study(each.space, 5, 0)) == 5


def test_points_repeat_with_the_seed_and_lie_in_their_ranges():
    space = "tuning_search_spaces/ranges/adamw.json"
    first = points.of_study(space, 5, 3)
    assert first == points.of_study(space, 5, 3)
    assert first != points.of_study(space, 5, 4)
    ranges = json.loads((submissions.ROOT / space).read_text())
    for point in first:
        assert point.keys() == ranges.keys()
        assert ranges["learning_rate"]["min"] <= point["learning_rate"]
        assert point["learning_rate"] <= ranges["learning_rate"]["max"]
        assert point["beta2"] in ranges["beta2"]["feasible_points"]


def test_too_few_listed_points_are_refused(tmp_path):
    space = tmp_path / "space.json"
    space.write_text('[{"learning_rate": 0.1}]')
    with pytest.raises(ExperimentError, match="lists 1 points where 2 trials"):
        points.of_study(str(space), 2, 0)
    with pytest.raises(ExperimentError, match="does not exist"):
        points.of_study(str(tmp_path / "other.json"), 2, 0)


def test_the_plan_gives_every_submission_the_same_budget_and_seeds():
    found = submissions.find(["adamw", "self_tuning/llqr"], ["jax"], "ranges")
    specs = make_plan(found, ["digits"], Budget(studies=3, trials=2, seed=7), Limits())
    external = [spec for spec in specs if spec.ruleset == "external"]
    own = [spec for spec in specs if spec.ruleset == "self"]
    assert [(s.study, s.trial, s.seed) for s in external] == [
        (study, trial, 7 + study) for study in range(3) for trial in (1, 2)
    ]
    assert [(s.study, s.trial, s.seed) for s in own] == [(k, 1, 7 + k) for k in range(3)]
    assert all(spec.hyperparameters is None for spec in own)
    assert len({json.dumps(spec.hyperparameters) for spec in external}) == 6
    assert len({spec.directory(Path()) for spec in specs}) == len(specs)
    assert specs[0].directory(Path("out")) == Path(
        "out/trials/adamw_jax/study_0/digits_jax/trial_1"
    )


def test_limits_follow_from_the_step_hint():
    assert Limits().of("digits") == {"max_global_steps": 1000, "eval_period_steps": 20}
    assert Limits(step_budget=0.5, evaluations=0).of("digits") == {
        "max_global_steps": 500,
        "eval_period_steps": None,
    }
    assert Limits(step_budget=0.0).of("digits")["max_global_steps"] is None
    assert Limits(steps=7).of("digits")["max_global_steps"] == 7


def test_the_clock_is_part_of_a_trial():
    found = submissions.find(["adamw"], ["jax"])
    (wall,) = make_plan(found, ["digits"], Budget(studies=1, trials=1), Limits())
    (process,) = make_plan(found, ["digits"], Budget(studies=1, trials=1), Limits(clock="process"))
    assert (wall.clock, process.clock) == ("wall", "process")
    assert wall.fingerprint() != process.fingerprint()


@pytest.mark.parametrize("to_the_end", [False, True])
def test_trials_may_go_on_to_the_end(to_the_end, tmp_path):
    found = submissions.find(["adamw"], ["jax"])
    limits = Limits(to_the_end=to_the_end)
    (spec,) = make_plan(found, ["digits"], Budget(studies=1, trials=1), limits)
    folder = spec.directory(tmp_path)
    assert parse(trial.flags(spec, folder)).ignore_targets == spec.ignore_targets == to_the_end


def test_two_ends_at_once_are_refused(capsys):
    parser = argparse.ArgumentParser()
    options.add_trial_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--to-the-end", "--to-test-target"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(step_budget=-1.0), "step_budget must be at least 0"),
        (lambda: Limits(steps=0), "steps must be at least 1"),
        (lambda: Limits(time_budget=0.0), "time_budget must be positive"),
        (lambda: Budget(studies=0), "studies must be at least 1"),
        (lambda: make_plan([], ["digit"], Budget(), Limits()), "did you mean 'digits'"),
    ],
)
def test_wrong_settings_are_explained(make, message):
    with pytest.raises(ExperimentError, match=message):
        make()


def test_what_decides_the_outcome_is_in_the_fingerprint():
    from dataclasses import replace

    from tests.experiments.made_up import spec

    base = spec()
    assert replace(base, save_checkpoints=True).fingerprint() == base.fingerprint()
    for change in (
        {"seed": 1},
        {"hyperparameters": {"learning_rate": 0.1}},
        {"max_global_steps": 3},
        {"ignore_targets": True},
    ):
        assert replace(base, **change).fingerprint() != base.fingerprint()
