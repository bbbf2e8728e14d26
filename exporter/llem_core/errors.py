"""The errors of llem.

LLEMError                 all errors that are reported to the user in one line
├── ConfigError           an option, a file or a backend cannot be used: stop
├── DeviceError           a reading of a GPU failed: try again
│   └── DeviceLostError   the device handle is invalid: initialise NVML again
└── SourceError           a data source cannot be read, or its response is invalid
    └── ChunkError        a chunk of samples from a data source is damaged
"""


class LLEMError(Exception):
    """The base of all errors of llem. The message is one line for the user."""


class ConfigError(LLEMError):
    """An option, a file or a backend cannot be used. The message says why, and what to do."""


class DeviceError(LLEMError):
    """A reading of a GPU failed. `name` is NVML's or the exporter's name of the error."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class DeviceLostError(DeviceError):
    """The device handle is invalid; NVML must be initialised again."""


class SourceError(LLEMError):
    """A data source, for example Prometheus or an exporter, cannot be read, or its response is invalid."""


class ChunkError(SourceError):
    """A chunk of samples is damaged. `chunk` is its number in the input, and `offset` is its first byte."""

    def __init__(self, message: str, chunk: int, offset: int) -> None:
        super().__init__(message)
        self.chunk = chunk
        self.offset = offset
