"""Chooses the decoder: numpy's at once, and numba's once there is so much work that loading it pays."""

import logging
import threading
from typing import Final

from llem_integrator.remote_read.xor import side_by_side
from llem_integrator.remote_read.xor.layout import DecodeInto

_log = logging.getLogger(__name__)

COMPILER_PAYS_SAMPLES: Final = 20_000_000
"""What numpy decodes while numba is imported (0.5 s, which hold the GIL); see bench_decoders."""


class DecoderChoice:
    """Uses numpy's decoder until `pays_samples` were decoded or announced, then loads numba in a thread.

    Numpy's decoder stays in use if numba is not installed or fails.
    """

    def __init__(self, pays_samples: int = COMPILER_PAYS_SAMPLES) -> None:
        self._left = pays_samples
        self._lock = threading.Lock()
        self._loading: threading.Thread | None = None
        self._decoder: DecodeInto = side_by_side.decode_into

    def expect(self, samples: int) -> None:
        """Announce samples, so that numba is loaded in advance if it pays."""
        with self._lock:
            if samples >= self._left:
                self._load()

    def decoder(self, samples: int) -> DecodeInto:
        """Return the decoder for this many samples, and counts them as decoded."""
        with self._lock:
            self._left -= samples
            if self._left <= 0:
                self._load()
            return self._decoder

    def wait(self) -> bool:
        """Wait until numba is loaded, if that was started; return whether its decoder is in use."""
        if self._loading is not None:
            self._loading.join()
        return self._decoder is not side_by_side.decode_into

    def _load(self) -> None:
        if self._loading is None:
            self._loading = threading.Thread(target=self._use_compiled, name="load-numba")
            self._loading.start()

    def _use_compiled(self) -> None:
        from llem_integrator.remote_read.xor import compiled

        try:
            self._decoder = compiled.load()
        except Exception as error:  # noqa: BLE001 (numba fails in many ways, and numpy decodes as well)
            _log.debug("numba does not decode here: %s", error)
