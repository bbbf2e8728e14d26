"""Configuration files in YAML: mappings, lists and strings, without duplicate keys."""

import unicodedata
from typing import Any

from llem_core.errors import ConfigError

Plain = dict[str, Any] | list[Any] | str
"""A scalar is the string that was written: `on` is a valid user name, and null is the empty string."""


def parse(text: str) -> Plain:
    """Return the content of a document; "" if it is empty. Raises ConfigError with the line and no values."""
    import yaml

    try:
        root = yaml.compose(text, yaml.BaseLoader)
        return "" if root is None else _plain(root, set())
    # ValueError and OverflowError are from chr() and int(), which the parser calls unchecked.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as exc:
        # The parser's message may quote the file, and with it a password.
        raise ConfigError(f"{_line(getattr(exc, 'problem_mark', None))}not valid YAML") from None


def _plain(node: Any, seen: set[int]) -> Plain:
    """Convert a node of the parser. `seen` identifies the lists and mappings before it."""
    if node.id == "scalar":
        return "" if node.style is None and node.value in ("~", "null") else _text(node)
    if id(node) in seen:
        raise ConfigError("an alias (*name) of a list or mapping is not supported: a few can mean gigabytes")
    seen.add(id(node))
    if node.id == "sequence":
        return [_plain(item, seen) for item in node.value]
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        if key.id != "scalar":
            raise ConfigError(f"{_line(key.start_mark)}a key must be a string")
        if (name := _text(key)) in mapping:
            raise ConfigError(f"{_line(key.start_mark)}duplicate key {shortened(name)}")
        mapping[name] = _plain(value, seen)
    return mapping


def _text(scalar: Any) -> str:
    text = str(scalar.value)
    # An escaped half of a surrogate pair cannot be encoded, and a control character garbles the log.
    if any(unicodedata.category(sign) in ("Cs", "Cc") and sign not in "\n\r\t" for sign in text):
        raise ConfigError(f"{_line(scalar.start_mark)}a control character or an incomplete character")
    return text


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}: " if mark else ""


def shortened(text: str) -> str:
    """Return a name as an error message shows it: quoted, on one line, at most 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
