"""YAML as mappings, lists and text: nothing is guessed, and nothing is said twice."""

import unicodedata
from typing import Any, Final

import yaml

from llem_core.errors import ConfigError

Plain = dict[str, Any] | list[Any] | str
"""Scalars stay the text they were written as: `on` is a fine name for a user."""


_TRUE: Final = ("true", "yes", "on", "y")
_FALSE: Final = ("false", "no", "off", "n")


class _Loader(yaml.BaseLoader):
    """Knows no alias: a short file could stand for a huge one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="an alias (*) is not read here", problem_mark=mark)
        return super().compose_node(parent, index)


def parse(text: str) -> Plain:
    """What the only document says, "" where there is none. Raises ConfigError, which quotes no value."""
    try:
        root = yaml.compose(text, _Loader)
        return "" if root is None else _plain(root)
    except yaml.MarkedYAMLError as exc:
        # Its own text has a piece of the file, in which a password may be.
        where = f"line {exc.problem_mark.line + 1}: " if exc.problem_mark else ""
        raise ConfigError(f"{where}{(exc.problem or 'this is not YAML')[:120]}") from None
    except yaml.YAMLError:
        raise ConfigError("this is not YAML: it has bytes that are not text") from None
    except RecursionError:
        raise ConfigError("this is nested too deeply") from None
    except (ValueError, OverflowError):  # of chr() and int(), which the parser gives anything
        raise ConfigError("this is not YAML: an escape or a number in it is out of range") from None


def _plain(node: yaml.Node) -> Plain:
    match node:
        case yaml.MappingNode():
            found: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
                name = _text(key)
                if name in found:
                    problem = f"{shortened(name)} is there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                found[name] = _plain(value)
            return found
        case yaml.SequenceNode():
            return [_plain(item) for item in node.value]
        case _:
            return "" if _is_null(node) else _text(node)


def _text(node: yaml.Node) -> str:
    text = str(node.value)
    # Half a surrogate pair, written as an escape, cannot be encoded; a control sign garbles the log.
    if any(unicodedata.category(sign) in ("Cs", "Cc") and sign not in "\n\r\t" for sign in text):
        raise yaml.MarkedYAMLError(problem="a value has a sign that is no text", problem_mark=node.start_mark)
    return text


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in ("~", "null")


def shortened(text: str) -> str:
    """A name as an error shows it: quoted, on one line, never long."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


class Section:
    """A mapping whose keys are taken one by one; one that nobody took is unknown."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        if not isinstance(value, dict) and value != "":
            raise ConfigError(f"{name or 'the file'} must be a mapping (key: value)")
        self._left: dict[str, Any] = dict(value) if isinstance(value, dict) else {}

    def label(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def section(self, key: str) -> "Section":
        return Section(self.label(key), self._left.pop(key, ""))

    def text(self, key: str) -> str:
        value = self._left.pop(key, "")
        if not isinstance(value, str):
            raise ConfigError(f"{self.label(key)} must be text, one value")
        return value

    def texts(self, key: str) -> list[str]:
        values = self._left.pop(key, "")
        if values == "":
            return []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{self.label(key)} must be a list of texts")
        return values

    def flag(self, key: str) -> bool | None:
        value = self.text(key)
        if value and value.lower() not in _TRUE + _FALSE:
            raise ConfigError(f"{self.label(key)} is true or false, not {shortened(value)}")
        return value.lower() in _TRUE if value else None

    def rest(self) -> dict[str, Any]:
        taken, self._left = self._left, {}
        return taken

    @property
    def empty(self) -> bool:
        return not self._left

    def end(self) -> None:
        for key in self._left:
            raise ConfigError(f"{shortened(self.label(key))} is no key of a web config file")
