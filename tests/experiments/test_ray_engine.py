"""The Ray engine on a cluster of this machine: the same records, and a lost worker loses nothing."""

import subprocess
import sys

import pytest

from experiments import records, submissions
from tests.experiments.submissions_for_tests import write

pytest.importorskip("ray", reason="Ray is an extra: pip install ray")
pytest.importorskip("jax")
pytest.importorskip("matplotlib")


def compare(out, *flags):
    """Run the command in a process of its own: Ray leaves sockets behind that warn when collected."""
    command = [sys.executable, "scripts/compare.py", "--frameworks=jax", "--workloads=rosenbrock"]
    command += ["--studies=1", "--trials=2", "--steps=6", "--time-budget=100", f"--out={out}"]
    return subprocess.run(
        [*command, *flags],
        cwd=submissions.ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker by /proc")
def test_a_worker_lost_in_the_middle_of_a_trial_loses_nothing(tmp_path):
    names = [write(tmp_path, kind) for kind in ("losing", "raising")]
    on_ray = compare(tmp_path / "ray", "--submissions", *names, "--engine=ray", "--workers=2")
    assert on_ray.returncode == 1, on_ray.stderr[-3000:]
    assert (tmp_path / "losing_jax/lost").exists()
    found = {(r.spec.submission, r.spec.trial): r for r in records.load_all(tmp_path / "ray")}
    assert len(found) == 4
    for trial in (1, 2):
        assert found["losing", trial].reason is None
        assert found["raising", trial].reason == "ValueError: out of luck"
    # What ran on the cluster is what runs here: same folders, same files, same steps.
    local = compare(tmp_path / "local", "--submissions", *names, "--workers=2")
    assert local.returncode == 1, local.stderr[-3000:]
    for record in records.load_all(tmp_path / "local"):
        other = found[record.spec.submission, record.spec.trial]
        assert other.spec == record.spec
        assert other.curve.get("validation/loss") == record.curve.get("validation/loss")
        folders = [record.spec.directory(tmp_path / where) for where in ("ray", "local")]
        files = [{path.name for path in folder.iterdir()} for folder in folders]
        assert files[0] == files[1]


def test_more_places_than_the_cluster_has_are_refused(tmp_path):
    done = compare(
        tmp_path / "out",
        "--submissions",
        write(tmp_path, "working"),
        "--engine=ray",
        "--threads=999",
    )
    assert done.returncode == 2
    assert "change --workers, --threads or --devices-per-trial" in done.stderr
