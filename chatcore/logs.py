"""Log lines, for people or as JSON. Every line written for a request or a run says which.

The standard library's logging, since importing a larger one costs more than the whole rest of a start-up. At level info
no line holds the text of a message, of a tool's arguments or of its result.
"""

import json
import logging
from contextvars import ContextVar
from typing import Literal

import attrs

from chatcore.console import harmless
from chatcore.errors import ChatcoreError


@attrs.frozen
class Place:
    """What a log line is about."""

    request: str = ""
    run: str = ""


place: ContextVar[Place] = ContextVar("place", default=Place())  # noqa: B039  frozen: nobody can change the default
"""What the current task works on. Set where a request comes in, and where a run begins."""


def fault(logger: logging.Logger, what: str, error: Exception) -> None:
    """Logs a fault of work that is done again and again, and goes on: one that was foreseen in a line, any other with
    its traceback."""
    foreseen = isinstance(error, ChatcoreError | OSError)
    logger.error("%s: %s", what, error, exc_info=None if foreseen else error)


class _PlaceFilter(logging.Filter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        here = place.get()
        record.worker = self._worker
        record.place = " ".join(f"{k}={v}" for k, v in attrs.asdict(here).items() if v)
        record.request_id, record.run_id = here.request, here.run
        return True


class _ConsoleFormatter(logging.Formatter):
    """`12:30:01 warning chatcore.runs.runs: … [run=…]`; of several workers, the second writes `[2] warning`."""

    def format(self, record: logging.LogRecord) -> str:
        worker = getattr(record, "worker", None)
        record.level = record.levelname.lower() if worker is None else f"[{worker}] {record.levelname.lower()}"
        text = super().format(record)
        where = getattr(record, "place", "")
        return f"{text} [{where}]" if where else text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        # What others have sent may be quoted in it, and must not look like a line of ours.
        return harmless(super().formatMessage(record)).replace("\n", "\n    ")


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "worker": getattr(record, "worker", None),
            "request": getattr(record, "request_id", ""),
            "run": getattr(record, "run_id", ""),
            "error": self.formatException(record.exc_info) if record.exc_info else "",
        }
        return json.dumps({key: value for key, value in line.items() if value}, ensure_ascii=False)


def configure(level: str, form: Literal["console", "json"], *, worker: int | None = None) -> None:
    """Sets up logging for a server process: everything goes to standard error.

    `worker` is the number of the worker, if there are several.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_PlaceFilter(worker))
    console = _ConsoleFormatter("%(asctime)s %(level)s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(console if form == "console" else _JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("chatcore").setLevel(level.upper())
