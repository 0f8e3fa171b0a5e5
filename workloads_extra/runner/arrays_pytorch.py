"""What the runner does differently for PyTorch: processes, compilation, state in checkpoints."""

import io
import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from workloads_extra.pytorch_workload import processes
from workloads_extra.runner.checkpoints import Model

_logger = logging.getLogger(__name__)
_PLAIN = (bool, int, float, str, type(None), torch.Tensor)


class PytorchRuntime:
    """The parts of a run that depend on PyTorch; starts the process group under torchrun."""

    def __init__(self):
        self._here = processes()
        if self._here.distributed and not dist.is_initialized():
            dist.init_process_group("nccl" if self._here.device.type == "cuda" else "gloo")

    @property
    def is_main(self) -> bool:
        """Whether this process writes the results."""
        return self._here.rank == 0

    @property
    def device_count(self) -> int:
        """Processes that share a batch."""
        return self._here.world_size

    def prepare(self, params: nn.Module, compile_model: bool) -> nn.Module:
        """Return the model as the submission gets it."""
        return torch.compile(params) if compile_model else params

    def wait(self, model: Model) -> None:
        """Return when all work on the device is done."""
        del model
        if self._here.device.type == "cuda":
            torch.cuda.synchronize()

    def agree(self, seconds: float) -> float:
        """Return the latest time of all processes, so that all decide alike."""
        if not self._here.distributed:
            return seconds
        shared = torch.tensor(seconds, dtype=torch.float64, device=self._here.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return shared.item()

    def close(self) -> None:
        """Leave the process group, unless the process ends at once (``workloads_extra.run.leave``)."""
        if self._here.distributed and self._here.device.type == "cuda":
            dist.destroy_process_group()

    def encode(self, model: Model) -> tuple[None, bytes]:
        """Return state dictionaries and the random state, as tensors and plain values."""
        content = {
            "params": _bare(model.params).state_dict(),
            "optimizer_state": _optimizer_entries(model.optimizer_state),
            "model_state": model.model_state,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return None, buffer.getvalue()

    def decode(self, index: None, payload: bytes, template: Model) -> Model:
        """Load the state into a fresh model and optimizer.

        Returns:
            The template, now with the saved values.

        Raises:
            ValueError: if the entries of the optimizer's state differ.
        """
        content = torch.load(io.BytesIO(payload), map_location=self._here.device, weights_only=True)
        _bare(template.params).load_state_dict(content["params"])
        saved, state = content["optimizer_state"], template.optimizer_state
        expected = sorted(_optimizer_entries(state))
        if sorted(saved) != expected:
            raise ValueError(
                f"the optimizer state has {sorted(saved)} where {expected} is expected"
            )
        for key, value in saved.items():
            if hasattr(state[key], "load_state_dict"):
                state[key].load_state_dict(value)
            else:
                state[key] = value
        torch.set_rng_state(content["rng"].cpu())
        if content["cuda_rng"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in content["cuda_rng"]])
        return template._replace(model_state=content["model_state"])


def _bare(model: nn.Module) -> nn.Module:
    """Model without the wrappers of compilation and distribution."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _optimizer_entries(optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """State dictionaries and plain values of an optimizer's state, by key."""
    entries = {}
    for key, value in optimizer_state.items():
        if hasattr(value, "state_dict"):
            entries[key] = value.state_dict()
        elif isinstance(value, _PLAIN):
            entries[key] = value
        else:
            _logger.warning(
                "optimizer_state[%r] is not in the checkpoint: %s has no state_dict; a resumed run "
                "gets a freshly initialised one",
                key,
                type(value).__name__,
            )
    return entries
