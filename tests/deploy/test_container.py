"""The container image's recipe: what can be known of it without a registry."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "exporter" / "deploy" / "container" / "Containerfile"
TEXT = re.sub(r"\\\n\s*", "", RECIPE.read_text())


def values(instruction: str) -> list[str]:
    """What follows each of these instructions."""
    return re.findall(rf"^{instruction} (.*)$", TEXT, re.MULTILINE)


def test_hadolint_finds_nothing() -> None:
    """No word from hadolint, style included."""
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, RECIPE], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_it_copies_what_the_build_needs() -> None:
    """The sources that it names are there, are let through, and are all that pyproject.toml builds from."""
    copied = [word for line in values("COPY") if "--from" not in line for word in line.split()[:-1]]
    let_through = RECIPE.with_name("Containerfile.dockerignore").read_text().splitlines()
    assert [f"!{name}" for name in copied] == [line for line in let_through if line.startswith("!")]
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    assert {*needed, *(path.partition("/")[0] for path in wheel)} == set(copied)


def test_it_runs_the_exporter_as_nobody() -> None:
    """A number for a user, as runAsNonRoot wants it; the program and the extras are the project's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (user,) = values("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    (entrypoint,) = (json.loads(words) for words in values("ENTRYPOINT"))
    assert Path(entrypoint[0]).name in project["scripts"]
    (extras,) = (line.partition("=")[2] for line in values("ARG") if line.startswith("EXTRAS"))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert len(values("FROM")) == 2
