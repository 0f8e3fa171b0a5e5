"""Write one submission as a folder for a pull request to AlgoPerf's repository of submissions.

    python scripts/package_submission.py self_tuning/llqr_jax --out DIR

DIR stands for a checkout of that repository: the submission goes to ``DIR/submissions/self_tuning/llqr_jax``
with everything it needs beyond what AlgoPerf installs, the llqr library included (without the other
framework's part and without the exact reference, which training does not use).
"""

from __future__ import annotations

import argparse
import ast
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = (
    "get_batch_size",
    "init_optimizer_state",
    "update_params",
    "prepare_for_eval",
    "data_selection",
)
RULESETS = ("external_tuning", "self_tuning")
FRAMEWORKS = {"jax": "torch", "pytorch": "jax"}
"""Framework a submission's name ends with ↦ folder of the library it does not need."""


class PackagingError(Exception):
    """A submission cannot be packaged; the message says why and what to do."""


def known_submissions(root: Path = ROOT) -> dict[str, Path]:
    """Return "ruleset/name" ↦ folder."""
    folders = [root / "submissions" / ruleset for ruleset in RULESETS]
    files = sorted(path for folder in folders for path in folder.glob("*/submission.py"))
    return {"/".join(path.parts[-3:-1]): path.parent for path in files}


def package(name: str, out: Path, root: Path = ROOT) -> Path:
    """Write the folder and return it.

    Args:
        name: "ruleset/name", e.g. ``"self_tuning/llqr_jax"``.
        out: checkout of the repository of submissions, or any folder.
        root: checkout of this repository.

    Returns:
        The folder of the submission, complete: it appears in one rename.

    Raises:
        PackagingError: for an unknown name, a folder that is already there, or missing parts.
    """
    known = known_submissions(root)
    if name not in known:
        raise PackagingError(f"unknown submission {name!r}; known: {', '.join(known)}")
    target = out / "submissions" / name
    if target.exists():
        raise PackagingError(f"{target} must not exist yet; remove it, or choose another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".packaging-") as folder:
        draft = Path(folder) / target.name
        shutil.copytree(known[name], draft, ignore=shutil.ignore_patterns("__pycache__"))
        unneeded = FRAMEWORKS[name.rsplit("_", 1)[1]]
        shutil.copytree(root / "llqr", draft / "llqr", ignore=_skipping(root / "llqr", unneeded))
        shutil.copy(root / "LICENSE", draft / "llqr")
        check(draft, external=name.startswith("external_tuning/"))
        draft.rename(target)
    return target


def _skipping(library: Path, framework: str):
    """Return what ``copytree`` shall ignore."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        skipped = {each for each in names if each == "__pycache__" or each.endswith(".pyc")}
        if Path(folder) == library:
            skipped |= {framework, "reference"}
        if Path(folder) == library / "algoperf":
            skipped |= {each for each in names if each.startswith(f"{framework}_")}
        return skipped

    return ignored


def check(folder: Path, *, external: bool) -> None:
    """Raise unless a folder holds what AlgoPerf's own check and its runner look for.

    Raises:
        PackagingError: naming everything that is missing.
    """
    needed = ["submission.py", "requirements.txt", "submission_info.yml", "llqr/__init__.py"]
    needed += ["tuning_search_space.json"] if external else []
    missing = [each for each in needed if not (folder / each).is_file()]
    if "submission.py" not in missing:
        body = ast.parse((folder / "submission.py").read_text(encoding="utf-8")).body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        for node in body:
            if isinstance(node, ast.Assign):
                defined |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        missing += [f"{each}() in submission.py" for each in FUNCTIONS if each not in defined]
    if missing:
        raise PackagingError(
            f"the submission lacks {', '.join(missing)}; add them and package again"
        )


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help=f"one of: {', '.join(known_submissions())}")
    parser.add_argument("--out", type=Path, required=True, help="where submissions/... is written")
    arguments = parser.parse_args()
    try:
        target = package(arguments.name, arguments.out)
    except PackagingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
