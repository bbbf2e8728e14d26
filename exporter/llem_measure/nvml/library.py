"""pynvml, imported when one of its names is first used, so that importing llem_measure loads no library."""

from typing import Any


def __getattr__(name: str) -> Any:
    import pynvml

    return getattr(pynvml, name)
