"""The errors of llem.

LLEMError                 anything that a user is told in one line
├── ConfigError           an option, a file or a backend that cannot work as asked ("stop")
├── DeviceError           a GPU did not answer this time ("try again")
│   └── DeviceLostError   its handle is dead until the driver is opened anew ("reopen")
└── SourceError           a store cannot be reached, or answered something that is not its data
    └── ChunkError        a chunk of samples that came from a store is damaged
"""


class LLEMError(Exception):
    """Base of all errors that llem raises on purpose; its text is one line for the user."""


class ConfigError(LLEMError):
    """An option, a file or a backend cannot work as asked; the text says why and what to do."""


class DeviceError(LLEMError):
    """A reading failed; `name` is the driver's own name of the error."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class DeviceLostError(DeviceError):
    """The device's handle is dead; nothing will answer until the driver is opened anew."""


class SourceError(LLEMError):
    """A store cannot be reached, refused, or answered something that is not its data."""


class ChunkError(SourceError):
    """A chunk of samples is damaged; `chunk` is its number among those given, `offset` its first byte."""

    def __init__(self, message: str, chunk: int, offset: int) -> None:
        super().__init__(message)
        self.chunk = chunk
        self.offset = offset
