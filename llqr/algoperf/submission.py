"""The functions of AlgoPerf's API that do not depend on the framework."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llqr.algoperf.batch_sizes import batch_size


class Submission:
    """What a submission does unless it has reasons of its own."""

    def get_batch_size(self, workload_name: str) -> int:
        """Return the global batch size.

        Raises:
            ValueError: for an unknown workload.
        """
        return batch_size(workload_name)

    def prepare_for_eval(
        self,
        workload: Any,
        current_param_container: Any,
        current_params_types: Any,
        model_state: Any,
        hyperparameters: Any,
        loss_type: Any,
        optimizer_state: Any,
        eval_results: Any,
        global_step: int,
        rng: Any,
    ) -> tuple[Any, Any, Any]:
        """Return the parameters as they are trained, and the model state to evaluate them with."""
        params = current_param_container
        return optimizer_state, params, self.evaluated_state(optimizer_state, params, model_state)

    def evaluated_state(self, optimizer_state: Any, params: Any, model_state: Any) -> Any:
        """Return the model state to evaluate with, that of training."""
        return model_state

    def data_selection(
        self,
        workload: Any,
        input_queue: Iterator[Any],
        optimizer_state: Any,
        current_param_container: Any,
        model_state: Any,
        hyperparameters: Any,
        global_step: int,
        rng: Any,
    ) -> Any:
        """Return the next batch."""
        return next(input_queue)
