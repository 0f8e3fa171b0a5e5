"""The README's examples run as written, and its promises about files hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_there_is_an_example_for_each_framework() -> None:
    assert any("llqr.torch.LLQR" in example for example in EXAMPLES)
    assert any("llqr.jax.llqr" in example for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("\n", 1)[0])
def test_example_runs(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    for framework in ("torch", "jax"):
        if f"llqr.{framework}" in example:
            pytest.importorskip(framework)
    exec(compile(example, "README.md", "exec"), {})
    if "print(" in example:
        assert capsys.readouterr().out.strip()


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    local = [link for link in links if not link.startswith("http")]
    assert local, "the README links to its documents"
    for link in local:
        assert (ROOT / link).is_file(), link


def test_the_structure_table_is_complete() -> None:
    from llqr.config import STRUCTURES

    for name in STRUCTURES:
        assert f"| `{name}` |" in TEXT
