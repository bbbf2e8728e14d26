"""The wheel, installed alone in a clean environment."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = ("exporter", "integrator")
PACKAGES = {"llem_core", "llem_exporter", "llem_integrator", "llem_measure"}
PROGRAMS = {
    "llem-exporter": "llem_exporter",
    "llem-integrate": "llem_integrator",
    "llem-measure": "llem_measure.command",
}

# test_programs_show_their_help runs __main__.
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

def fail(name):
    raise

for package in sys.argv[1:]:
    module = importlib.import_module(package)
    print(package)
    for found in pkgutil.walk_packages(module.__path__, f"{package}.", onerror=fail):
        if not found.name.endswith(".__main__"):
            importlib.import_module(found.name)
            print(found.name)
"""

MEASURE = """
import sys, time
from llem_measure import measure

standard = sys.stdlib_module_names | {"__main__"}
with measure() as measured:
    time.sleep(0.3)
print(measured.measurement.backend)
print(measured.measurement.total_j)
print(*sorted({name.partition(".")[0] for name in sys.modules} - standard))
for tried in measured.considered:
    print(f"{tried.backend}: {tried.reason}")
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Return standard output. A failure shows the output of the program."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """The sdist, the wheel made of it, and the wheel made of the working tree."""

    sdist: Path
    wheel: Path
    tree_wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both distributions, built with the hatchling of this environment."""
    through_sdist, from_tree = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("tree")
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--outdir", through_sdist, cwd=ROOT)
    run(*build, "--wheel", "--outdir", from_tree, cwd=ROOT)
    (sdist,), (wheel,), (tree_wheel,) = (
        tuple(folder.glob(pattern))
        for folder, pattern in [
            (through_sdist, "*.tar.gz"),
            (through_sdist, "*.whl"),
            (from_tree, "*.whl"),
        ]
    )
    return Built(sdist, wheel, tree_wheel)


@pytest.fixture(scope="module")
def clean_bin(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with only the wheel, without extras, and its dependencies."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", built.wheel)
    return folder / "bin"


def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def sources(package: str) -> set[str]:
    """Module names of one package in the working tree, without __main__."""
    folder = next(folder for root in SOURCE_ROOTS if (folder := ROOT / root / package).is_dir())
    modules = {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if path.name != "__main__.py" and (path.parent / "__init__.py").exists()
    }
    return {name.removesuffix(".__init__") for name in modules}


def test_wheel_from_sdist_equals_wheel_from_tree(built: Built) -> None:
    """The wheel built from the sdist equals the wheel built from the repository, byte for byte."""
    assert built.wheel.name == built.tree_wheel.name
    assert built.wheel.read_bytes() == built.tree_wheel.read_bytes()


def test_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    """The wheel contains code, py.typed files and the packaged trace, but no tests or stray files."""
    names = wheel_names(built.wheel)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} < set(names)
    assert {
        "llem_exporter/replay/traces/llm_serving.csv",
    } < set(names)
    assert not [name for name in names if "test" in name or "__pycache__" in name]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_sdist_holds_the_tests_and_nothing_built(built: Built) -> None:
    """The sdist contains the tests and the source of the fake driver, but no compiled files."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "tests/run",
        "tests/servers/prometheus.py",
        "tests/fake_nvml/Makefile",
        "README.md",
        "LICENSE",
    } < names
    assert {"exporter/deploy/README.md", "exporter/deploy/slurm/prolog.sh"} < names
    assert not [name for name in names if name.endswith((".so", ".so.1", ".pyc", ".o"))]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_module_imports_from_the_wheel_alone(clean_bin: Path, package: str) -> None:
    """Each module can be imported with only the declared dependencies."""
    imported = run(clean_bin / "python", "-I", "-c", IMPORT_EVERYTHING, package, cwd=clean_bin)
    assert set(imported.split()) == sources(package)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_show_their_help(clean_bin: Path, program: str) -> None:
    """Each command runs from the wheel alone, as a script and with `python -m`."""
    assert "--help" in run(clean_bin / program, "--help")
    assert "--help" in run(clean_bin / "python", "-I", "-m", PROGRAMS[program], "--help")


def test_wheel_needs_no_extra(clean_bin: Path) -> None:
    """The plain wheel installs no zeus, codecarbon or numba, and its dependencies are compatible."""
    run(clean_bin / "python", "-m", "pip", "check")
    installed = run(clean_bin / "python", "-m", "pip", "list", "--format=freeze")
    assert not {"zeus", "codecarbon", "numba"} & {line.partition("==")[0] for line in installed.splitlines()}


def test_the_measuring_library_needs_only_pynvml(tmp_path: Path) -> None:
    """Copied beside pynvml alone, llem_measure imports and measures with nvml."""
    site = tmp_path / "site"
    for package in ("llem_core", "llem_measure"):
        shutil.copytree(ROOT / "exporter" / package, site / package)
    shutil.copy(Path(sysconfig.get_path("purelib")) / "pynvml.py", site)
    with FakeDriver(tmp_path, gpus=1) as driver:
        done = subprocess.run(
            [sys.executable, "-S", "-W", "error", "-c", MEASURE],
            env={**driver.env, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    backend, joules, packages, *reasons = done.stdout.splitlines()
    assert (backend, packages) == ("nvml", "llem_core llem_measure pynvml")
    assert float(joules) > 0
    assert reasons == [
        "zeus: zeus is not installed; pip install 'zeus>=0.13.1'",
        "nvml: reads the power of GPU 0",
    ]
