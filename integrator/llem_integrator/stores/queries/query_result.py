"""Results of Prometheus's query API as series. Numbers go from the bytes to arrays, not by way of objects."""

import json
import re
import reprlib
from typing import Any, Final

import numpy as np
import orjson

from llem_core.errors import SourceError
from llem_integrator.series.samples import Series, Values, make_series, whole_ms

_SAMPLES: Final = re.compile(rb'"values"\s*:\s*\[\s*\[')
"""The beginning of a series' samples. No label contains this: its quotes would be escaped."""
_PUNCTUATION: Final = b'[]" \t\r\n'


def document(body: bytes) -> Any:
    """Return an answer's JSON, with the `values` of each series as an array (n, 2) of unix seconds and value.

    Raises ValueError or RecursionError if it is not JSON, and SourceError if the samples are not numbers.
    """
    arrays: list[Values] = []
    rest, at = [], 0
    for begin in _SAMPLES.finditer(body):
        end = body.find(b"]]", begin.end())
        rest += [body[at : begin.start()], b'"values":%d' % len(arrays)]
        arrays.append(_pairs(body[begin.end() : end]))
        at = end + len(b"]]")
    content = json.loads(b"".join([*rest, body[at:]]))
    if arrays:
        try:
            for result in content["data"]["result"]:
                result["values"] = arrays[result["values"]]
        except (KeyError, TypeError, IndexError) as exc:
            raise _not_samples(content) from exc
    return content


def _pairs(text: bytes) -> Values:
    """Return samples, written as [unix seconds,"value"] and separated by commas, as an array (n, 2)."""
    try:
        return numbers(text).reshape(-1, 2)
    except ValueError as exc:
        raise _not_samples(text) from exc


def numbers(text: bytes) -> Values:
    """Return the numbers (n,) of a JSON array, of which some may be quoted; null is NaN.

    Raises ValueError for anything else.
    """
    plain = text.translate(None, _PUNCTUATION)
    try:
        return np.array(orjson.loads(b"[%b]" % plain), np.float64)
    except orjson.JSONDecodeError:  # "NaN", "+Inf" and the like are numbers to numpy only
        return _special_numbers(plain.replace(b"null", b"NaN"))
    except TypeError as exc:
        raise ValueError("not a number") from exc


def _special_numbers(plain: bytes) -> Values:
    try:
        values = np.fromstring(plain, sep=",")
    except DeprecationWarning as exc:  # numpy 1 warns of text that is not a number
        raise ValueError("not a number") from exc
    if len(values) != plain.count(b",") + 1:  # numpy 1 stops there
        raise ValueError("not a number")
    return values


def series_in(result: Any, start_ms: int = 0, end_ms: int = 2**62) -> Series:
    """Return one element of a result as a clean series inside [start_ms, end_ms]; raises SourceError."""
    try:
        if "histogram" in result or "histograms" in result:
            raise SourceError("the server's result holds native histograms, which are not supported")
        pairs = result["values"] if "values" in result else np.array([[float(x) for x in result["value"]]])
        unix_ms, values = whole_ms(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
        labels = {str(name): str(value) for name, value in result["metric"].items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as exc:
        raise _not_samples(result) from exc
    metric = labels.pop("__name__", "")
    return make_series(labels, unix_ms, values, metric, within_ms=(start_ms, end_ms))


def _not_samples(content: Any) -> SourceError:
    return SourceError(f"the server's result holds something other than samples: {reprlib.repr(content)}")
