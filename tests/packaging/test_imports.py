"""Which frameworks an import loads, and what happens where one of them is not installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCH_MODULES = frozenset({"torch"})
JAX_MODULES = frozenset({"jax", "jaxlib", "optax", "flax"})
SHELLS = ("llqr.torch", "llqr.jax")
# Every other module is core: it must load where neither framework is installed.
FRAMEWORK_PREFIXES = ("llqr.torch.", "llqr.jax.", "llqr.algoperf.torch_", "llqr.algoperf.jax_")

# Hides packages the way an environment without them does: the path finder does not find them.
HIDE = """
from importlib.machinery import PathFinder

find_installed = PathFinder.find_spec

def find_unhidden(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden} else find_installed(name, path, target)

PathFinder.find_spec = find_unhidden
"""


def module_names() -> list[str]:
    """Every module of the package, as a dotted name."""
    names = set()
    for file in (ROOT / "llqr").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names)


def core_module_names() -> list[str]:
    return [name for name in module_names() if not f"{name}.".startswith(FRAMEWORK_PREFIXES)]


def run_python(code: str, hidden: frozenset[str] = frozenset()) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that cannot find the hidden packages."""
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=set(hidden)) + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def loaded_after_importing(*modules: str, hidden: frozenset[str] = frozenset()) -> set[str]:
    """The top-level packages in sys.modules once the modules are imported."""
    code = f"import sys, {', '.join(modules)}\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    result = run_python(code, hidden)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def test_importing_llqr_loads_no_framework():
    assert not loaded_after_importing("llqr") & (TORCH_MODULES | JAX_MODULES)


def test_core_modules_load_nothing_beyond_numpy():
    optional = TORCH_MODULES | JAX_MODULES | {"scipy", "sklearn", "matplotlib", "tqdm"}
    assert not loaded_after_importing(*core_module_names()) & optional


def test_core_works_where_neither_framework_is_installed():
    loaded_after_importing(*core_module_names(), hidden=TORCH_MODULES | JAX_MODULES)


@needs("jax", "optax")
def test_jax_shell_works_where_torch_is_not_installed():
    modules = [name for name in module_names() if f"{name}.".startswith("llqr.jax.")]
    assert "jax" in loaded_after_importing("llqr.jax", *modules, hidden=TORCH_MODULES)


@needs("torch")
def test_torch_shell_works_where_jax_is_not_installed():
    modules = [name for name in module_names() if f"{name}.".startswith("llqr.torch.")]
    assert "torch" in loaded_after_importing("llqr.torch", *modules, hidden=JAX_MODULES)


@needs("torch", "jax")
def test_each_shell_leaves_the_other_framework_alone():
    assert not loaded_after_importing("llqr.torch") & JAX_MODULES
    assert not loaded_after_importing("llqr.jax") & TORCH_MODULES


@pytest.mark.parametrize(
    ("shell", "hidden", "command"),
    [
        ("llqr.torch", TORCH_MODULES, "pip install llqr[torch]"),
        ("llqr.jax", JAX_MODULES, "pip install llqr[jax]"),
        ("llqr.jax", frozenset({"optax"}), "pip install llqr[jax]"),
    ],
)
def test_shell_without_its_framework_names_the_install_command(shell, hidden, command):
    result = run_python(f"import {shell}", hidden)
    assert result.returncode == 1
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith(("ImportError:", "ModuleNotFoundError:")), result.stderr
    assert command in last_line.replace("'", "").replace('"', "")
