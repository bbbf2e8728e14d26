"""Logging to standard error, as text or as JSON."""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

_TEXT: Final = "%(asctime)s %(levelname)s %(message)s"
_OWN: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
"""Attributes of every record. All others come from `extra` and are logged as fields."""


def configure(level: str, form: str) -> None:
    """Log records of this level and above, including Python's warnings and, as JSON, uncaught exceptions."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    logging.getLogger("zeus").setLevel(logging.WARNING)
    if form == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda hook: _log_uncaught(*hook[:3])


class JsonLines(logging.Formatter):
    """One JSON object per record: ts (RFC 3339, UTC, milliseconds), level, msg, logger, and fields."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "ts": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": record.getMessage().strip(),
            "logger": record.name,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    exception = None if error is None else (kind, error, trace)
    logging.getLogger("llem_exporter").critical("uncaught exception", exc_info=exception)
