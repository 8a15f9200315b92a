"""Logging: one line a record on stderr, as text or JSON."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

# Their records of each request or statement belong to a debugger.
_QUIET = ("sqlalchemy", "alembic", "mcp", "uvicorn", "asyncio", "limits", "aiohttp")


class JsonFormatter(logging.Formatter):
    """One JSON object a record: at, level, logger, message and, for a failure, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure_logging(level: str, form: str) -> None:
    """Send every log record to stderr: stdout belongs to the protocol and to what a command prints."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
