"""The error tree is the one that its module draws."""

import inspect
import re

from llem_core import errors


def drawn() -> dict[str, str | None]:
    """Each class in the docstring's drawing, and its parent there."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in (inspect.getdoc(errors) or "").splitlines():
        if found := re.match(r"[│├└─ ]*([A-Z]\w+Error)\b", line):
            column = found.start(1)
            above = [(at, name) for at, name in above if at < column]
            parents[found[1]] = above[-1][1] if above else None
            above.append((column, found[1]))
    return parents


def defined() -> dict[str, str | None]:
    """Each class that the module defines, and its parent there."""
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    return {
        kind.__name__: next((base.__name__ for base in kind.__bases__ if base in classes), None)
        for kind in classes
    }


def test_docstring_draws_the_tree() -> None:
    """Every error class is in the docstring's drawing, under its parent; nothing else is drawn."""
    assert drawn() == defined()
    assert defined()["LLEMError"] is None


def test_every_error_is_an_llem_error() -> None:
    """One except clause catches all that llem raises on purpose."""
    assert [name for name, parent in defined().items() if parent is None] == ["LLEMError"]


def test_device_error_names_the_drivers_error() -> None:
    """A DeviceError carries the driver's own name beside its text."""
    error = errors.DeviceLostError("GPU 3 fell off the bus", "NVML_ERROR_GPU_IS_LOST")
    assert (str(error), error.name) == ("GPU 3 fell off the bus", "NVML_ERROR_GPU_IS_LOST")
