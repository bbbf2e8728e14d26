"""Configuration files in YAML: mappings, lists and text, without duplicate keys."""

import unicodedata
from typing import Any

from llem_core.errors import ConfigError

Plain = dict[str, Any] | list[Any] | str
"""A scalar is the text that was written: `on` is a valid user name, and null is the empty text."""


def parse(text: str) -> Plain:
    """The content of a document; "" if it is empty. Raises ConfigError with the line and without values."""
    import yaml

    try:
        root = yaml.compose(text, yaml.BaseLoader)
        return "" if root is None else _plain(root, set())
    except yaml.MarkedYAMLError as exc:
        # The parser's message may quote the file, and with it a password.
        raise ConfigError(f"{_line(exc.problem_mark)}not valid YAML") from None
    except yaml.YAMLError:
        raise ConfigError("not valid YAML: it contains bytes that are not text") from None
    except RecursionError:
        raise ConfigError("nested too deeply") from None
    except (ValueError, OverflowError):  # raised by chr() and int(), which the parser calls unchecked
        raise ConfigError("not valid YAML: an escape or a number is out of range") from None


def _plain(node: Any, seen: set[int]) -> Plain:
    """Convert a node of the parser. `seen` identifies the lists and mappings before it."""
    if id(node) in seen:
        raise ConfigError("an alias (*name) of a list or mapping is not supported: a few can mean gigabytes")
    if node.id != "scalar":
        seen.add(id(node))
    match node.id:
        case "mapping":
            mapping: dict[str, Any] = {}
            for key, value in node.value:
                if key.id != "scalar":
                    raise ConfigError(f"{_line(key.start_mark)}a key must be text")
                if (name := _text(key)) in mapping:
                    raise ConfigError(f"{_line(key.start_mark)}duplicate key {shortened(name)}")
                mapping[name] = _plain(value, seen)
            return mapping
        case "sequence":
            return [_plain(item, seen) for item in node.value]
        case _:
            return "" if node.style is None and node.value in ("~", "null") else _text(node)


def _text(scalar: Any) -> str:
    text = str(scalar.value)
    # An escaped half of a surrogate pair cannot be encoded, and a control character garbles the log.
    if any(unicodedata.category(sign) in ("Cs", "Cc") and sign not in "\n\r\t" for sign in text):
        raise ConfigError(f"{_line(scalar.start_mark)}a control character or an incomplete character")
    return text


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}: " if mark else ""


def shortened(text: str) -> str:
    """A name as an error message shows it: quoted, on one line, at most 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
