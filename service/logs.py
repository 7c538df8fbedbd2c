"""Log lines as JSON on stderr, each with the id of the request it belongs to."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_FIELDS = "fields"
_to_json = json.JSONEncoder(default=str).encode  # json.dumps would make an encoder every time


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, request_id, what `extra=fields(...)` adds, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _to_json(line)


def fields(**values: Any) -> dict[str, Any]:
    """`logger.info("...", extra=fields(model=name))` puts `model` beside the message."""
    return {_FIELDS: values}


def configure_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # no line tells them; asked for, they would be looked up for each
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(True)
    logging.getLogger("PIL").setLevel(logging.WARNING)
    # a line for every malformed form, which the answer tells already
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
