"""The files of the submission folders."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [
    ROOT / "submissions" / ruleset / f"llqr_{framework}"
    for ruleset in ("external_tuning", "self_tuning")
    for framework in ("jax", "pytorch")
]
API = {
    "get_batch_size",
    "init_optimizer_state",
    "update_params",
    "prepare_for_eval",
    "data_selection",
}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: "/".join(folder.parts[-2:]))
def test_a_folder_holds_what_the_rules_ask_for(folder):
    names = {path.name for path in folder.iterdir() if path.is_file()}
    external = folder.parent.name == "external_tuning"
    expected = {"submission.py", "requirements.txt", "submission_info.yml"}
    assert names == expected | ({"tuning_search_space.json"} if external else set())
    body = ast.parse((folder / "submission.py").read_text()).body
    assigned = {
        target.id for node in body if isinstance(node, ast.Assign) for target in node.targets
    }
    assert assigned >= API
    # Wiring only: no function or class is defined there.
    assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in body)


@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_the_search_space_is_a_copy(framework):
    copy = ROOT / f"submissions/external_tuning/llqr_{framework}/tuning_search_space.json"
    original = ROOT / "tuning_search_spaces/llqr.json"
    assert copy.read_bytes() == original.read_bytes()
    points = json.loads(original.read_text())
    assert len(points) == 5
    assert len({frozenset(point) for point in points}) == 1
