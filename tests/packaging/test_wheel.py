"""The built wheel: what it holds, what it asks for, and that it works in a clean environment."""

import email
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import llqr

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation nothing is downloaded: the build backend is among the test requirements.
    arguments = ("--wheel", "--no-isolation", "--outdir", folder, ROOT)
    result = run(sys.executable, "-m", "build", *arguments, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode())


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    dist_info = f"llqr-{llqr.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"llqr", dist_info}
    in_checkout = {p.relative_to(ROOT).as_posix() for p in (ROOT / "llqr").rglob("*.py")}
    assert {name for name in names if name.startswith("llqr/")} == in_checkout | {"llqr/py.typed"}
    assert f"{dist_info}/licenses/LICENSE" in names


def test_wheel_requires_numpy_alone(metadata):
    requirements = metadata.get_all("Requires-Dist", [])
    assert [r for r in requirements if "extra ==" not in r] == ["numpy>=1.26"]
    assert {"torch", "jax", "experiments", "test"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["Requires-Python"] == ">=3.11"


def test_version_is_the_same_everywhere(metadata):
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert metadata["Version"] == llqr.__version__
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [llqr.__version__]
    assert f"## [{llqr.__version__}]" in changelog


# Run by the clean environment's interpreter, where numpy is all that llqr finds.
WORKS_INSTALLED = """
import importlib
import importlib.metadata
import sys
from pathlib import Path

import numpy as np

import llqr
from llqr.backend import NumpyBackend
from llqr.config import configure
from llqr.preconditioner import Preconditioner
from llqr.quadratic import QuadraticModel

package = Path(llqr.__file__).parent
assert package.is_relative_to(sys.prefix), package
assert llqr.__version__ == importlib.metadata.version("llqr")

for file in package.rglob("*.py"):
    parts = file.relative_to(package).with_suffix("").parts
    if parts[0] not in ("torch", "jax") and not parts[-1].startswith(("torch_", "jax_")):
        importlib.import_module(".".join(("llqr", *parts)).removesuffix(".__init__"))

# With a diagonal curvature c the best diagonal U is 1 / (c + λ).
c, damping, gradient = np.array([2.0, 0.5, 3.0]), 0.1, np.array([1.0, -2.0, 0.3])
config = configure(
    structure="diagonal", inner_solver="conjugate_gradient", damping=damping, ema_decay=0.0
)
preconditioner = Preconditioner(NumpyBackend(), config, {"w": (3,)})
model = QuadraticModel(gradient={"w": gradient}, curvature_product=lambda v: {"w": c * v["w"]})
sources = {"input": {"w": gradient}}
state = preconditioner.fit(preconditioner.init(like={"w": gradient}), model, sources)
preconditioned, _ = preconditioner.precondition(state, sources)
np.testing.assert_allclose(preconditioned["w"], gradient / (c + damping), rtol=1e-5)
"""


@pytest.mark.slow
def test_wheel_installs_into_a_clean_environment_and_works_there(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True, symlinks=True)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    constraints = ROOT / "constraints.txt"
    installed = run(
        python, "-m", "pip", "install", "--constraint", constraints, wheel, cwd=tmp_path
    )
    if "No matching distribution found for numpy" in installed.stderr:
        pytest.skip("pip reaches no package index to install numpy from")
    assert installed.returncode == 0, installed.stderr
    # -I: neither the checkout nor PYTHONPATH can stand in for the installed package.
    result = run(python, "-I", "-W", "error", "-c", WORKS_INSTALLED, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
