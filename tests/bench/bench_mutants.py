"""Count the mutants that the tests kill, in the modules of the arithmetic, the ledger and the sampler.

python tests/bench/bench_mutants.py [--share 0.2] [--seed N] [--only NAME ...] [MODULE ...]

A mutant is a module with one small change: another comparison, operator or constant, a negated condition, or
a removed statement. It is killed if a test of the module fails. The program prints the surviving mutants,
then "N of M killed" for each module.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401 - imported once here instead of in each child
import numpy as np  # noqa: F401
import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120
CHILDREN = 2

# The tests of each module, the fastest first.
SUITES: dict[str, tuple[str, ...]] = {
    "llem_core.energy": (
        "tests/llem_core",
        "tests/llem_integrator/energy/test_partial_sums.py",
        "tests/llem_integrator/test_integration.py",
    ),
    "llem_core.backend": ("tests/llem_core",),
    "llem_core.measurement": (
        "tests/llem_core",
        "tests/llem_measure/backends/test_counter_window.py",
    ),
    "llem_measure.sampling.ledger": (
        "tests/llem_measure/sampling/test_ledger.py",
        "tests/llem_measure/sampling/test_clock_steps.py",
        "tests/llem_measure/sampling/test_gpu_sampler.py",
    ),
    "llem_measure.sampling.gpu_sampler": ("tests/llem_measure/sampling/test_gpu_sampler.py",),
    "llem_measure.sampling.sampler": ("tests/llem_measure/sampling/test_sampler.py",),
    "llem_measure.sampling.counter.reader": ("tests/llem_measure/sampling/test_gpu_sampler.py",),
    "llem_measure.sampling.slow_readings": ("tests/llem_measure/sampling/test_gpu_sampler.py",),
    "llem_measure.sampling.counter.filter": (
        "tests/llem_measure/sampling/counter/test_filter.py",
        "tests/llem_measure/sampling/test_gpu_sampler.py",
    ),
    "llem_measure.sampling.counter.scope": ("tests/llem_measure/sampling/counter/test_scope.py",),
    "llem_measure.sampling.retrying_reader": ("tests/llem_measure/sampling/test_gpu_sampler.py",),
    "llem_measure.sampling.ticks": (
        "tests/llem_measure/sampling/test_ticks.py",
        "tests/llem_measure/sampling/test_clock_steps.py",
    ),
    "llem_measure.sampling.update_period": ("tests/llem_measure/sampling/test_update_period.py",),
    "llem_measure.sampling.validation": ("tests/llem_measure/sampling/test_validation.py",),
    "llem_measure.backends.nvml": (
        "tests/llem_measure/backends/test_energy_between.py",
        "tests/llem_measure/backends/test_nvml_bounds.py",
    ),
    "llem_measure.backends.counter_window": ("tests/llem_measure/backends/test_counter_window.py",),
    "llem_integrator.energy.window_energy": (
        "tests/llem_integrator/energy/test_partial_sums.py",
        "tests/llem_integrator/test_integration.py",
        "tests/llem_integrator/test_windows.py",
    ),
    "llem_integrator.energy.counters.rises": (
        "tests/llem_integrator/energy/test_joules.py",
        "tests/llem_integrator/test_integration.py",
        "tests/llem_integrator/test_windows.py",
    ),
}

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed module: the place of the change, the change, and the code."""

    module: str
    line: int
    column: int
    change: str
    code: types.CodeType

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line}:{self.column} {self.change}"


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Yield the changes of one node: a description, a function that makes it and one that undoes it."""

    def setting(target: object, field: str, value: object) -> tuple[Callable[[], None], Callable[[], None]]:
        before = getattr(target, field)
        return lambda: setattr(target, field, value), lambda: setattr(target, field, before)

    match node:
        case ast.Compare(ops=[op]) if other := COMPARISONS.get(type(op)):
            yield f"{type(op).__name__} -> {other.__name__}", *setting(node, "ops", [other()])
        case ast.BinOp() | ast.AugAssign() if operator := OPERATORS.get(type(node.op)):
            yield f"{type(node.op).__name__} -> {operator.__name__}", *setting(node, "op", operator())
        case ast.BoolOp():
            opposite = ast.Or if isinstance(node.op, ast.And) else ast.And
            yield f"-> {opposite.__name__}", *setting(node, "op", opposite())
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", *setting(node, "value", not value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} -> {value + 1}", *setting(node, "value", value + 1)
        case ast.If() | ast.IfExp() | ast.While():
            yield "negated condition", *setting(node, "test", ast.UnaryOp(ast.Not(), node.test))
    for field in ("body", "orelse"):
        statements = getattr(node, field, None)
        for number, statement in enumerate(statements if isinstance(statements, list) else ()):
            if isinstance(statement, ast.AugAssign | ast.Raise) or _is_call(statement):
                rest = list(statements or ())
                rest[number] = ast.copy_location(ast.Pass(), statement)
                yield f"without line {statement.lineno}", *setting(node, field, rest)


def _is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)


def mutants(module: str) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    for node in list(ast.walk(tree)):
        for change, make, undo in changes(node):
            make()
            code = compile(ast.fix_missing_locations(tree), spec.origin, "exec")
            undo()
            yield Mutant(module, getattr(node, "lineno", 0), getattr(node, "col_offset", 0), change, code)


class MutantLoader(importlib.machinery.SourceFileLoader):
    """Loads a module with the code of a mutant."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, mutant.code.co_filename)
        self._code = mutant.code

    def get_code(self, fullname: str) -> types.CodeType:  # noqa: ARG002 - it loads one module
        return self._code


class MutantFinder(importlib.abc.MetaPathFinder):
    """Finds a mutant in place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: object, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname != self._mutant.module:
            return None
        return importlib.util.spec_from_loader(fullname, MutantLoader(self._mutant))


def install(mutant: Mutant) -> None:
    """Let the mutant be imported in place of its module, by other modules, too."""
    for name in [name for name in sys.modules if name.startswith("llem_")]:
        del sys.modules[name]
    sys.meta_path.insert(0, MutantFinder(mutant))


def start(mutant: Mutant | None, suite: Sequence[str]) -> int:
    """Run the tests in a child process; return its PID."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(TIMEOUT_SECONDS)
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    if mutant is not None:
        install(mutant)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "filterwarnings=default"]
    os._exit(int(pytest.main([*options, *suite])))


def survivors(chosen: Sequence[Mutant]) -> Iterator[Mutant]:
    """Yield the mutants with which all tests pass."""
    waiting, running = list(reversed(chosen)), dict[int, Mutant]()
    while waiting or running:
        while waiting and len(running) < CHILDREN:
            mutant = waiting.pop()
            running[start(mutant, SUITES[mutant.module])] = mutant
        pid, status = os.wait()
        mutant = running.pop(pid)
        if status == 0:
            yield mutant


def main() -> None:
    """Print the survivors and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--share", type=float, default=0.2, help="share of all mutants to try [0.2]")
    parser.add_argument("--seed", type=int, default=20_261_130, help="chooses the mutants")
    parser.add_argument("--only", nargs="*", help="try only the mutants with these names")
    parser.add_argument("modules", nargs="*", default=list(SUITES), metavar="MODULE")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["CI"] = "true"  # the same Hypothesis examples for each mutant
    rng = random.Random(options.seed)
    for module in options.modules:
        _, status = os.waitpid(start(None, SUITES[module]), 0)
        if status:
            sys.exit(f"{module}: its tests fail without any mutant (wait status {status})")
        every = list(mutants(module))
        chosen = [mutant for mutant in every if rng.random() < options.share]
        if options.only is not None:
            chosen = [mutant for mutant in every if mutant.name in options.only]
        survived = 0
        for mutant in survivors(chosen):
            survived += 1
            print(f"survived: {mutant.name}", flush=True)
        print(f"{module}: {len(chosen) - survived} of {len(chosen)} killed", flush=True)


if __name__ == "__main__":
    main()
