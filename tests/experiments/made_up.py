"""Records of trials that never ran."""

from experiments.plan import TrialSpec
from experiments.records import Record


def spec(**changes):
    values = {
        "submission": "adamw",
        "framework": "jax",
        "ruleset": "external",
        "path": "submissions/baselines/adamw_jax/submission.py",
        "space": "tuning_search_spaces/ranges/adamw.json",
        "workload": "digits",
        "study": 0,
        "trial": 1,
        "seed": 0,
        "hyperparameters": {"learning_rate": 0.01},
        **changes,
    }
    return TrialSpec(**values)


def record(steps=None, *, reason=None, best=0.9, **changes):
    """A trial that reached the target after so many steps, or not, or failed; a step takes 0.1 s."""
    made = spec(**changes)
    result = None
    if reason is None:
        result = {
            "trial": made.trial,
            "submission_time": 10.0,
            "global_step": 100,
            "stopped_by": "max_global_steps",
            "time_to_target": None if steps is None else 0.1 * steps,
            "steps_to_target": steps,
            "best_validation": best,
            "hyperparameters": made.hyperparameters,
        }
    return Record(
        spec=made,
        fingerprint=made.fingerprint(),
        goal={"metric": "validation/accuracy", "validation_target": 0.95, "minimise": False},
        result=result,
        reason=reason,
        curve={} if reason else {"step": [1, 50, 100], "validation/accuracy": [0.1, 0.8, best]},
        wall_seconds=1.0,
        about={"system": "Linux", "cores": 2},
    )
