"""The flags, with the names AlgoPerf's ``submission_runner.py`` has for them."""

import argparse
from collections.abc import Sequence
from typing import Any

from workloads_extra.runner.bookkeeping import CLOCKS

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; unset flags have AlgoPerf's defaults except where the help says so."""
    parser = argparse.ArgumentParser(
        prog="python -m workloads_extra.run",
        description="Run a submission on a workload by AlgoPerf's protocol.",
        allow_abbrev=False,
    )
    _add_run_flags(parser)
    _add_recording_flags(parser)
    _add_official_flags(parser)
    return parser


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    """What to run."""
    add = parser.add_argument
    add("--workload", required=True, help="name of the workload")
    add("--framework", required=True, choices=("jax", "pytorch"))
    add("--submission_path", required=True, help="path of the submission's Python file")
    add("--tuning_ruleset", default="external", choices=("external", "self"))
    add("--tuning_search_space", help="JSON file; for the external ruleset only")
    add("--num_tuning_trials", type=int, default=1, help="points of the search space to try")
    add("--hparam_start_index", type=int, help="first trial to run, from 0")
    add("--hparam_end_index", type=int, help="trial before which to stop")
    add("--rng_seed", type=int, help="seed of the run; drawn if not given")
    add("--max_global_steps", type=int, help="steps after which a trial stops")
    _add_boolean(parser, "skip_evals", False, "never evaluate")
    add(
        "--eval_period_steps",
        type=int,
        help="evaluate after the first step and then every so many steps, instead of by the clock; "
        "steps to target then do not depend on the machine's speed (not in AlgoPerf)",
    )
    add(
        "--runtime_factor",
        type=float,
        default=1.0,
        help="multiplies the submission time that is allowed (not in AlgoPerf)",
    )
    _add_boolean(
        parser,
        "ignore_test_target",
        False,
        "stop at the validation target, which is the one that is scored (not in AlgoPerf)",
    )
    _add_boolean(
        parser,
        "ignore_targets",
        False,
        "stop at no target, to see where training ends (not in AlgoPerf)",
    )
    add(
        "--clock",
        default="wall",
        choices=CLOCKS,
        help="time by the wall's clock, as AlgoPerf does, or by the CPU time of this process, for trials "
        "on CPUs that others use at the same time (not in AlgoPerf)",
    )
    _add_boolean(
        parser, "torch_compile", False, "compile PyTorch models (AlgoPerf's default is true)"
    )


def _add_recording_flags(parser: argparse.ArgumentParser) -> None:
    """Where results go."""
    add = parser.add_argument
    add("--experiment_dir", required=True, help="directory of all experiments")
    add("--experiment_name", required=True, help="directory of this one, below it")
    _add_boolean(parser, "append_timestamp", False, "append date and time to the experiment's name")
    _add_boolean(parser, "overwrite", False, "remove the results of an experiment of this name")
    _add_boolean(parser, "resume_last_run", False, "continue the experiment of this name")
    _add_boolean(parser, "save_checkpoints", True, "save a checkpoint at every evaluation")
    _add_boolean(
        parser, "save_intermediate_checkpoints", True, "keep all checkpoints, not only the last"
    )


def _add_official_flags(parser: argparse.ArgumentParser) -> None:
    """What only AlgoPerf's own runner understands, and the flag that calls it."""
    only = "official runner only"
    _add_boolean(parser, *_OFFICIAL_RUNNER)
    parser.add_argument("--data_dir", default="~/data", help="data of official workloads")
    parser.add_argument("--imagenet_v2_data_dir", help=only)
    parser.add_argument("--librispeech_tokenizer_vocab_path", default="", help=only)
    parser.add_argument("--pytorch_eval_num_workers", type=int, default=0, help=only)
    for name in OFFICIAL_ONLY:
        _add_boolean(parser, name, False, only)


_OFFICIAL_RUNNER = ("official_runner", False, "hand over to AlgoPerf's submission_runner.py")
OFFICIAL_ONLY = ("use_wandb", "profile", "capture_jax_trace", "set_pytorch_max_split_size")
"""Switches that this runner refuses because it would ignore them."""


def _add_boolean(parser: argparse.ArgumentParser, name: str, default: bool, text: str) -> None:
    """Accept ``--name``, ``--name=true``, ``--name=false`` and ``--noname``."""
    help_text = f"{text} (default: {str(default).lower()})"
    parser.add_argument(
        f"--{name}", nargs="?", const=True, default=default, type=_parse_boolean, help=help_text
    )
    parser.add_argument(
        f"--no{name}", dest=name, action="store_const", const=False, help=argparse.SUPPRESS
    )


def _parse_boolean(text: str) -> bool:
    """Read a switch's value.

    Returns:
        The value.

    Raises:
        argparse.ArgumentTypeError: for anything that is neither.
    """
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return _BOOLEANS[text.lower()]


def parse(arguments: Sequence[str]) -> Any:
    """Parse a command line.

    Args:
        arguments: without the program's name.

    Returns:
        A namespace with one attribute per flag.
    """
    return make_parser().parse_args(arguments)


def without_own_flags(arguments: Sequence[str]) -> list[str]:
    """Return a command line without the flag that AlgoPerf's runner does not know.

    Args:
        arguments: without the program's name.

    Returns:
        The other arguments, in their order.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_boolean(parser, *_OFFICIAL_RUNNER)
    return parser.parse_known_args(list(arguments))[1]
