"""How the service logs: one line a record to stderr, as text or as JSON. Knows the standard library's logging only."""

import json
import logging
import time

from serving.settings import Settings


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, and what the record carries beside."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "figures", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        figures = getattr(record, "figures", {})
        return " ".join([super().format(record), *(f"{key}={value}" for key, value in figures.items())])


def start(settings: Settings) -> None:
    """Once a process; a second call changes nothing."""
    log = logging.getLogger("shortcut")
    if log.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("shortcut.access").setLevel(logging.INFO if settings.access_log != "off" else logging.WARNING)
