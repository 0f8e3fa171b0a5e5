"""Points from Optuna's samplers, points given up by its pruners, studies in its own storage."""

import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.errors import ExperimentError
from experiments.search import Costs, Point, Tried
from workloads_extra.runner.storage import read_json

try:
    import optuna
except ModuleNotFoundError as error:
    raise ExperimentError(
        "samplers other than halton need Optuna; install it: pip install optuna"
    ) from error

COSTS = "costs"
SAMPLERS = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS = {
    "none": lambda: optuna.pruners.NopPruner(),
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(),
}


class OptunaProposer:
    """Proposes what an Optuna study asks for; the study continues where it was.

    Args:
        space: JSON file of ranges and choices.
        storage: Optuna's URL of a database; None for a journal in ``folder``.
        folder: of the search.
        sampler: key of :data:`SAMPLERS`.
        pruner: key of :data:`PRUNERS`; it sees the mean cost after each workload.
        seed: of the sampler.
    """

    def __init__(
        self,
        space: Path,
        folder: Path,
        *,
        storage: str | None = None,
        sampler: str = "tpe",
        pruner: str = "none",
        seed: int = 0,
    ):
        self._distributions = distributions(space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                storage=storage or _journal(folder / "optuna.log"),
                study_name="search",
                sampler=SAMPLERS[sampler](seed),
                pruner=PRUNERS[pruner](),
                load_if_exists=True,
            )
        running = optuna.trial.TrialState.RUNNING
        # What an interrupted start left half done is tried again.
        for trial in self.study.get_trials(deepcopy=False, states=(running,)):
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            self.study.enqueue_trial(trial.params)

    def earlier(self) -> list[Tried]:
        """Return the points that the study has costs of."""
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        found = self.study.get_trials(deepcopy=False, states=states)
        return [Tried(dict(each.params), dict(each.user_attrs[COSTS])) for each in found]

    def propose(self) -> tuple[Any, Point]:
        """Return a trial of the study and its point."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask(self._distributions)
        return trial, dict(trial.params)

    def judge(self, handle: Any, costs: Costs) -> bool:
        """Report the mean cost so far; tell the study if its pruner gives the point up."""
        handle.set_user_attr(COSTS, costs)
        handle.report(fmean(costs.values()), step=len(costs))
        if not handle.should_prune():
            return False
        self.study.tell(handle, state=optuna.trial.TrialState.PRUNED)
        return True

    def finish(self, handle: Any, costs: Costs) -> None:
        """Tell the study the mean cost of a point."""
        handle.set_user_attr(COSTS, costs)
        self.study.tell(handle, fmean(costs.values()))


def distributions(space: Path) -> dict[str, Any]:
    """Return Optuna's distributions of a search space.

    Args:
        space: JSON file of ranges and choices.

    Returns:
        Field ↦ distribution.

    Raises:
        ExperimentError: for a list of points, which leaves nothing to sample.
    """
    fields = read_json(space)
    if isinstance(fields, list):
        raise ExperimentError(f"{space} lists points; a search needs ranges")
    return {name: _distribution(field) for name, field in fields.items()}


def _distribution(field: dict[str, Any]) -> Any:
    if field.get("feasible_points"):
        return optuna.distributions.CategoricalDistribution(field["feasible_points"])
    log = field["scaling"] == "log"
    return optuna.distributions.FloatDistribution(field["min"], field["max"], log=log)


def _journal(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.storages.JournalStorage(backend)
