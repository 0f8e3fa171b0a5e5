"""What a wrapper around a ``torch.optim`` optimizer shares with its base: groups, state, defaults, hooks."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from torch import enable_grad
from torch.optim import Optimizer

Closure = Callable[[], Any]


class AbstractWrapper(Optimizer, abc.ABC):
    """An optimizer whose ``param_groups``, ``state`` and ``defaults`` are the base optimizer's very own.

    Args:
        base_optimizer: the optimizer inside.
    """

    def __init__(self, base_optimizer: Optimizer) -> None:
        # Optimizer.__init__ would make groups of its own; what unpickling sets up is all the rest.
        self.__setstate__({"base_optimizer": base_optimizer})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimizer's very groups."""
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimizer's very state."""
        return self.base_optimizer.state

    @state.setter
    def state(self, value: Any) -> None:
        self.base_optimizer.state = value

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's very defaults."""
        return self.base_optimizer.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self.base_optimizer.defaults = value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as the base optimizer does."""
        self.base_optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state dict with what this one adds to it."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        result: dict[str, Any] = {**self.base_optimizer.state_dict(), **self._packed()}
        for hook in self._optimizer_state_dict_post_hooks.values():
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, cast to the dtype and device of the parameters.

        Raises:
            ValueError: if it belongs to another configuration, naming the first difference; nothing has
                changed then.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        take = self._checked(state_dict)
        own = self._packed().keys()
        self.base_optimizer.load_state_dict({k: v for k, v in state_dict.items() if k not in own})
        take()
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    @abc.abstractmethod
    def _packed(self) -> dict[str, Any]:
        """Return what the state dict holds beside the base optimizer's."""

    @abc.abstractmethod
    def _checked(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        """Return a function that loads the wrapper's part; raise if it does not belong here."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and deepcopy keep: all but hooks and what schedulers patch in."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name != "step" and not name.startswith("_optimizer_")
        }


def _nothing() -> None:
    pass


def replayed(
    closure: Closure,
    first: Any,
    before: Callable[[], None] = _nothing,
    after: Callable[[], None] = _nothing,
) -> Closure:
    """Return a closure whose first evaluation, done already, is replayed.

    Args:
        closure: the user's.
        first: what its first evaluation returned.
        before: run before every evaluation.
        after: run after every evaluation.
    """
    done = [first]

    def evaluate() -> Any:
        before()
        with enable_grad():
            loss = done.pop() if done else closure()
        after()
        return loss

    return evaluate
