"""Grafana's own packages from npm: the types that dashboards must fit, its tables, its units."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
INSTALL_SECONDS: Final = 180
COMPILE_SECONDS: Final = 120
MANIFEST: Final = json.loads((HERE / "package.json").read_text())
NEWEST: Final = "@grafana/schema"
OLDEST: Final = f"{NEWEST}-9"
OLDER: Final = sorted(name for name in MANIFEST["devDependencies"] if name.startswith(f"{NEWEST}-"))

JSON_TYPE: Final = """
/** A type as JSON has it: members of string enums are plain strings. */
type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
/** The same with nothing required, for versions whose types require what Grafana fills in itself. */
type Some<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]?: Some<T[K]> } : T;
"""


def npm(*arguments: str, folder: Path) -> str:
    """What npm prints; an error says what it could not do."""
    program = shutil.which("npm")
    if program is None:
        raise FileNotFoundError("npm is not installed: apt-get install npm (tests/run does it)")
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier", "--legacy-peer-deps"]
    try:
        done = subprocess.run(
            [program, *arguments, *quiet],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(
            f"npm {arguments[0]}: no answer from its registry in {INSTALL_SECONDS} s"
        ) from error
    if done.returncode:
        raise ConnectionError(f"npm {arguments[0]} failed; is its registry in reach?\n{done.stderr[-2000:]}")
    return done.stdout


def install(folder: Path) -> None:
    """The packages of package-lock.json, in a folder's node_modules."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    npm("ci", folder=folder)


def complaints(folder: Path, statements: str) -> str:
    """What the compiler says of statements that use Json and Some; empty where all fits."""
    (folder / "check.ts").write_text(f"{statements}\n{JSON_TYPE}")
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
    tsc = folder / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        ["node", tsc, *flags, "--moduleResolution", "bundler", "check.ts"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=COMPILE_SECONDS,
        check=False,
    )
    return done.stdout + done.stderr


def whole(dashboards: list[dict[str, Any]], package: str) -> str:
    """Dashboards as the type Dashboard of a package has them; the newest one's in full."""
    kind = "Json" if package == NEWEST else "Some"
    lines = [f'import type {{ Dashboard }} from "{package}";']
    for number, dashboard in enumerate(dashboards):
        known = dashboard if package != OLDEST else _as_of_9(dashboard)
        lines.append(f"export const dashboard{number} = {json.dumps(known)} satisfies {kind}<Dashboard>;")
    return "\n".join(lines)


def _as_of_9(dashboard: dict[str, Any]) -> dict[str, Any]:
    """Without what the types of Grafana 9 do not know: variables, and null as an id or a threshold."""
    known = {key: value for key, value in dashboard.items() if key not in ("id", "templating")}
    without_null: dict[str, Any] = json.loads(json.dumps(known).replace(', "value": null', ""))
    return without_null


def options(panels: list[dict[str, Any]]) -> str:
    """Each panel's options and lines' settings, as the newest types of its kind have them."""
    kinds = sorted({panel["type"] for panel in panels})
    folder = f"{NEWEST}/dist/types/raw/composable"
    lines = []
    for number, panel in enumerate(panels):
        kind = panel["type"]
        lines.append(
            f"export const options{number} = {json.dumps(panel['options'])} satisfies Some<{kind}.Options>;"
        )
        if custom := panel["fieldConfig"]["defaults"].get("custom"):
            lines.append(
                f"export const custom{number} = {json.dumps(custom)} satisfies Some<{kind}.FieldConfig>;"
            )
    imports = []
    for kind in kinds:
        path = f"./node_modules/{folder}/{kind}/panelcfg/x/types.gen"
        imports.append(f'import type * as {kind} from "{path}";')
    return "\n".join([*imports, *lines])


def units(folder: Path) -> set[str]:
    """The ids of all units that @grafana/data knows."""
    return set(_grafana(folder, "units", None))


def table(folder: Path, panel: dict[str, Any], frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that Grafana shows of a table's frames, by the names of its columns, from left to right."""
    (rows,) = _grafana(folder, "table", {"transformations": panel["transformations"], "frames": frames})
    found: list[dict[str, Any]] = rows
    return found


def _grafana(folder: Path, what: str, given: object) -> list[Any]:
    """An answer of grafana_data.cjs."""
    shutil.copy(HERE / "grafana_data.cjs", folder)
    done = subprocess.run(
        ["node", "grafana_data.cjs", what],
        cwd=folder,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=COMPILE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: list[Any] = json.loads(done.stdout)
    return answer
