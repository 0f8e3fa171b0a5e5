"""Submissions by name: ``adamw``, ``self_tuning/llqr``, or the path of a folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.errors import ExperimentError

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "external_tuning": "external",
    "self_tuning": "self",
    "baselines": "external",
    "ablations": "external",
}
"""Folder below ``submissions/`` ↦ tuning ruleset."""
FRAMEWORKS = ("jax", "pytorch")
SELF_SUFFIX = "_self_tuning"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One submission in one framework.

    Attributes:
        label: name in results, without the framework; unique within a comparison.
        framework: ``jax`` or ``pytorch``.
        ruleset: ``external`` or ``self``.
        path: of ``submission.py``, relative to the repository where it lies in it.
        space: JSON file with the search space; None under the self-tuning ruleset.
    """

    label: str
    framework: str
    ruleset: str
    path: str
    space: str | None

    @property
    def name(self) -> str:
        """Label and framework, the name of its folder of results."""
        return f"{self.label}_{self.framework}"


def find(
    names: Sequence[str],
    frameworks: Sequence[str],
    points: str = "listed",
    root: Path = ROOT,
) -> list[Submission]:
    """Look submissions up.

    Args:
        names: ``NAME``, ``GROUP/NAME`` or a folder's path, each with or without ``_jax`` or ``_pytorch``,
            with ``LABEL:`` before it to name it so in results, and with ``=SPACE.json`` behind it to use
            another search space.
        frameworks: which to use of each name that does not state one.
        points: ``listed`` for the points beside the submission, ``ranges`` for
            ``tuning_search_spaces/ranges/NAME.json`` where there is one.
        root: of the repository.

    Returns:
        One per name and framework that exists.

    Raises:
        ExperimentError: for a name without any submission, a missing search space, or one label twice.
    """
    found = []
    for text in names:
        label, _, rest = text.rpartition(":")
        name, _, space = rest.partition("=")
        folders = _folders(name, frameworks, root)
        if not folders:
            raise ExperimentError(
                f"no submission is named {name!r} in {', '.join(frameworks)}; "
                f"known: {', '.join(known(root))}, or the path of a folder"
            )
        described = [_describe(folder, space or None, points, root) for folder in folders]
        found += [replace(each, label=label or each.label) for each in described]
    names_found = [each.name for each in found]
    twice = sorted({name for name in names_found if names_found.count(name) > 1})
    if twice:
        raise ExperimentError(f"{', '.join(twice)} would be there twice; name each submission once")
    return found


def known(root: Path = ROOT) -> list[str]:
    """Return ``GROUP/NAME`` of all submissions of the repository, without frameworks."""
    files = [
        path for group in GROUPS for path in (root / "submissions" / group).glob("*/submission.py")
    ]
    return sorted({f"{path.parent.parent.name}/{_split(path.parent.name)[0]}" for path in files})


def _folders(name: str, frameworks: Sequence[str], root: Path) -> list[Path]:
    """Folders that a name stands for; the first group that has it wins for a bare name."""
    candidates = [Path(name)] if Path(name).is_absolute() else [root / name]
    candidates += [root / "submissions" / name]
    if "/" not in name:
        candidates += [root / "submissions" / group / name for group in GROUPS]
    stated = _split(candidates[0].name)[1]
    for candidate in candidates:
        tried = (
            [candidate]
            if stated
            else [candidate.with_name(f"{candidate.name}_{each}") for each in frameworks]
        )
        present = [folder for folder in tried if (folder / "submission.py").is_file()]
        if present:
            return present
    return []


def _describe(folder: Path, space: str | None, points: str, root: Path) -> Submission:
    """Ruleset, label and search space of a folder."""
    base, framework = _split(folder.name)
    ruleset = GROUPS.get(folder.parent.name, "external")
    if ruleset == "self" and space is not None:
        raise ExperimentError(
            f"{folder} is self-tuning and takes no search space; leave out ={space}"
        )
    return Submission(
        label=base + (SELF_SUFFIX if ruleset == "self" else ""),
        framework=framework,
        ruleset=ruleset,
        path=_relative(folder / "submission.py", root),
        space=None if ruleset == "self" else _space(folder, base, space, points, root),
    )


def _space(folder: Path, base: str, stated: str | None, points: str, root: Path) -> str:
    """File of the search space."""
    spaces = root / "tuning_search_spaces"
    candidates = [folder / "tuning_search_space.json", spaces / f"{base}.json"]
    if points == "ranges":
        candidates.insert(0, spaces / "ranges" / f"{base}.json")
    if stated is not None:
        candidates = [Path(stated) if Path(stated).is_absolute() else root / stated]
    for path in candidates:
        if path.is_file():
            return _relative(path, root)
    raise ExperimentError(
        f"{folder.name} has no search space: none of "
        f"{', '.join(_relative(path, root) for path in candidates)} exists; "
        f"name one as {base}=SPACE.json"
    )


def _split(folder: str) -> tuple[str, str]:
    """Base name and framework of a folder's name; the framework is empty if it states none."""
    for framework in FRAMEWORKS:
        if folder.endswith(f"_{framework}"):
            return folder.removesuffix(f"_{framework}"), framework
    return folder, ""


def _relative(path: Path, root: Path) -> str:
    """Path below the repository, or as it is."""
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
