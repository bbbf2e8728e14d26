"""Which decoder does the work: numpy's at once, or numba's where there is so much that loading it pays."""

import logging
import threading
from typing import Final

from llem_integrator.remote_read.xor import side_by_side
from llem_integrator.remote_read.xor.layout import DecodeInto

_log = logging.getLogger(__name__)

COMPILER_PAYS_SAMPLES: Final = 20_000_000
"""What numpy decodes while numba is loaded (0.5 s, in which it holds the interpreter); see bench_decoders."""


class DecoderChoice:
    """Numpy's decoder until `pays_samples` were decoded or announced; then numba is loaded in a thread.

    Where numba is not installed, or does not work, numpy's decoder stays.
    """

    def __init__(self, pays_samples: int = COMPILER_PAYS_SAMPLES) -> None:
        self._left = pays_samples
        self._lock = threading.Lock()
        self._loading: threading.Thread | None = None
        self._decoder: DecodeInto = side_by_side.decode_into

    def expect(self, samples: int) -> None:
        """Say how many samples are still to come, so that numba is there early if it pays."""
        with self._lock:
            if samples >= self._left:
                self._load()

    def decoder(self, samples: int) -> DecodeInto:
        """The decoder for this many samples, which count as decoded."""
        with self._lock:
            self._left -= samples
            if self._left <= 0:
                self._load()
            return self._decoder

    def wait(self) -> bool:
        """Whether numba's decoder is there, after a load that was started has ended."""
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
