"""What processes write into their logs: many records hold the words of strangers, which make no lines of their own."""

from __future__ import annotations

import logging

from farm.words import one_line


class LogFormatter(logging.Formatter):
    """One inert line per record; a traceback follows indented, so that none of its lines looks like a record."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [one_line(self.formatMessage(record))]
        if record.exc_info:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


def log_to_stderr(level: int, form: str) -> None:
    """Configure logging for this process: to stderr, each record in the `form` of `logging`, by `LogFormatter`."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])


def _indented(text: str) -> list[str]:
    return [f"    {one_line(line)}" for line in text.splitlines()]
