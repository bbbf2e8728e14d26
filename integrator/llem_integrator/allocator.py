"""How this process's memory is handed back to the system: for the program, never for who uses the library."""

import ctypes
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Source: malloc.h of glibc, mallopt(3)."""

_ARRAY_BYTES: Final = 64 << 20
_FREE_BYTES: Final = 256 << 20


def keep_freed() -> None:
    """Have arrays that are let go be used again: the system's new memory takes longer to touch than to fill.

    glibc gives large ones back each time, a fifth of the seconds of a short run. Elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or none that can be asked
        return
    mallopt(_MMAP_THRESHOLD, _ARRAY_BYTES)
    mallopt(_TRIM_THRESHOLD, _FREE_BYTES)
