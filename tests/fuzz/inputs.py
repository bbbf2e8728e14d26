"""Inputs that are nearly right: what means something, with a few places changed."""

from typing import Any

from hypothesis import strategies as st

TOKENS = (
    *(
        b"",
        b"\0",
        b"\xff",
        b"\n",
        b"\r",
        b"\t",
        b" ",
        b'"',
        b"'",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"=",
    ),
    *(
        b"-1",
        b"1e999",
        b"-1e999",
        b"nan",
        b"inf",
        b"0x10",
        b"1_0",
        b"9" * 400,
        b"1e-400",
        b"1e15",
        b"1e17",
        b"-0",
    ),
    *(
        b"9007199254740",
        b"9007199254741.1",
        b"4294967296",
        b"null",
        b"true",
        b"# ",
        b"# EOF",
        b"\\ud800",
        b"\\UFFFFFFFF",
    ),
    "\u0663\u2028\U0001f600".encode(),
    b"\xed\xa0\x80",
    b"[" * 2000,
)


@st.composite
def near(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """One of the seeds, or nothing, with up to six stretches replaced by a token, a seed or any bytes."""
    data = draw(st.sampled_from((*seeds, b"")))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        new = draw(st.sampled_from((*TOKENS, *seeds)) | st.binary(max_size=8))
        data = data[:start] + new + data[end:]
    return data


NUMBERS = st.floats() | st.integers() | st.integers(1_795_507_000, 1_795_508_000)
WORDS = st.text(max_size=12) | st.sampled_from(
    ("uuid", "gpu", "instance", "GPU-0", "0", "NaN", "+Inf", "1e9")
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)

_POINTS = st.tuples(NUMBERS, NUMBERS.map(str)) | JSON
_SERIES = st.fixed_dictionaries(
    {"metric": st.dictionaries(WORDS, WORDS, max_size=4) | JSON},
    optional={"values": st.lists(_POINTS, max_size=6) | JSON, "value": _POINTS},
)


def query_answers() -> st.SearchStrategy[Any]:
    """What a Prometheus might say to a query, and what one that is out of its mind might."""
    result = st.lists(_SERIES | JSON, max_size=4) | JSON
    return st.fixed_dictionaries(
        {
            "status": st.sampled_from(("success", "success", "success", "error")) | JSON,
            "data": st.fixed_dictionaries({"resultType": JSON, "result": result}) | JSON,
        },
        optional={"error": WORDS | JSON, "warnings": st.lists(WORDS, max_size=2) | JSON, "infos": JSON},
    )
