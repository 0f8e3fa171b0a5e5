"""Problems drawn at random train without a learning rate."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="torch is not installed")
from experiments.random_problems import LIKELIHOODS, draw, train


def test_a_seed_draws_one_problem():
    assert draw(7) == draw(7) != draw(8)
    drawn = [draw(seed) for seed in range(200)]
    assert {problem.loss for problem in drawn} == set(LIKELIHOODS)
    assert {problem.depth for problem in drawn} == {0, 1, 2, 3, 4}
    assert all(problem.batch_size <= problem.examples for problem in drawn)


def test_training_repeats_exactly():
    problem = draw(3)
    assert train(problem, 5) == train(problem, 5)


def test_an_unknown_method_is_refused():
    with pytest.raises(
        ValueError, match=r"method must be one of annealed, endless, adam, got 'sgd'"
    ):
        train(draw(3), 5, "sgd")


# Of every kind and batch size. In the last two, steps along directions without curvature once blew networks
# up.
ANY = list(range(20))


@pytest.mark.parametrize("seed", [*ANY, 248, 486])
def test_a_run_of_known_length_does_not_diverge(seed):
    record = train(draw(seed), 60)
    assert not record["diverged"], record


# Linear models that can fit any handful of examples: without a multiplier each of these ends at 1.3 to 2.8
# times its first loss.
OVERFITTING = [1191, 1223, 1437, 1758, 2922]


@pytest.mark.parametrize("seed", OVERFITTING)
def test_batches_that_any_step_can_fit_do_not_diverge(seed):
    problem = draw(seed)
    assert (problem.depth, problem.batch_size < 8) == (0, True)
    record = train(problem, 60)
    assert record["last"] < record["first"], record


# Without noise from batches, and where the curvature pass sees the network that is trained.
SMOOTH = [
    seed
    for seed in range(120)
    if draw(seed).batch_size == draw(seed).examples
    and (draw(seed).normalisation != "batch" or draw(seed).depth == 0)
][:16]


@pytest.mark.parametrize("seed", SMOOTH)
def test_whole_batches_do_not_diverge(seed):
    record = train(draw(seed), 40, "endless")
    assert record["skipped"] == 0
    assert math.isfinite(record["last"])
    assert not record["diverged"], record


# A handful of examples per batch: without a multiplier each of them ends above its first loss.
SMALL = [35, 118, 262, 382, 402]


@pytest.mark.parametrize("seed", SMALL)
def test_small_batches_do_not_diverge(seed):
    record = train(draw(seed), 60, "endless")
    assert not record["diverged"], record


def test_the_script_goes_on_where_it_was(tmp_path):
    def run(count, *more):
        command = [sys.executable, "-m", "scripts.random_problems", "--out", str(tmp_path)]
        done = subprocess.run(
            [*command, "--count", str(count), "--steps", "3", *more],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    path = tmp_path / "records.jsonl"
    run(2)
    first = path.read_text()
    path.write_text(first + '{"seed": 2, "los')  # cut off
    assert "| all | 4 |" in run(4)
    assert path.read_text().startswith(first)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["seed"] for record in records] == [0, 1, 2, 3]
    assert records[3]["last"] == train(replace(draw(3)), 3)["last"]
    assert "| all | 2 |" in run(2, "--first", "2", "--method", "adam", "--learning-rate", "0.01")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["seed"] for record in records[4:]] == [2, 3]
    assert records[5]["last"] == train(draw(3), 3, "adam", 0.01)["last"]
    assert records[5]["last"] != records[3]["last"]
