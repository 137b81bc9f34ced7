"""Structured logs: one line a record, as JSON or as text, with namespace and name of the service it is about."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# kopf hands these along with its records; they repeat namespace and name.
FOREIGN = {"k8s_ref", "k8s_skip", "k8s_local", "settings"}
QUIET = "OS signals are ignored"  # they are taken by the main thread, on purpose


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, severity, logger, message, then what the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "severity": record.levelname,  # as Cloud Logging reads it
            "logger": record.name,
            "message": record.getMessage(),
            **extras(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Text for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        more = "".join(f" {key}={value}" for key, value in extras(record).items())
        line = f"{when} {record.levelname.lower():7} {record.getMessage()}{more}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that were given as `extra`; of a service (`about`) its namespace and name."""
    given = {key: value for key, value in record.__dict__.items() if key not in STANDARD and key not in FOREIGN}
    return {**given.pop("about", {}), **given}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--log-format and --log-level, as `set_up` takes them."""
    parser.add_argument("--log-format", choices=("json", "text"), default="json" if not sys.stderr.isatty() else "text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def set_up(form: str, level: str) -> None:
    """Configure logging for the whole process, kopf's records included."""
    # JSON to stdout: log collectors take what a container writes to stderr for an error of any level.
    handler = logging.StreamHandler(sys.stdout if form == "json" else sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(lambda record: QUIET not in record.getMessage())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("kopf.objects", "kopf.activities", "kopf._core.engines.activities"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # a line for each event received
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
