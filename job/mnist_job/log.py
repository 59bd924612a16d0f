"""What the job prints: sentences for people or, with `--log-format json`, one JSON object a line for log collectors."""

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

_STYLES = {"warning": "yellow", "error": "red"}  # in terminals, and not where NO_COLOR is set


def write(text: str) -> None:
    """Write to standard output. It is no error if the reader stops reading early (`| head -1`)."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)


class Log:
    """The log: sentences, or JSON objects of `time`, `level`, `message` and the fields of the call.

    Failures and tracebacks go to standard error, all other lines to `file` as set now (Ray replaces sys.stdout later).
    """

    def __init__(self, file: TextIO | None = None, *, json_lines: bool = False) -> None:
        self.json_lines = json_lines
        self.verbose = False
        self.console = _Console(file or sys.stdout)
        self.facts: dict[str, Any] = {}  # the fields of `result`, for `-o json`
        self._errors = _Console(sys.stderr)

    def follow(self, before: TextIO, file: TextIO) -> None:
        """From now on, write to `file` what went to `before`."""
        for console in (self.console, self._errors):
            if console.file is before:
                console.file = file

    def restore_terminal(self) -> None:
        """Erase the progress bar of a process that died, and show the cursor again."""
        if self.is_live:
            self.console.control(Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2)))
            self.console.show_cursor(True)

    @property
    def is_live(self) -> bool:
        """Whether `file` is a terminal that can show a progress bar. FORCE_COLOR does not make a pipe a terminal."""
        return self.console.file.isatty() and not self.console.is_dumb_terminal and not self.json_lines

    def info(self, message: str, **fields: Any) -> None:
        """Log a step that succeeded."""
        self._say(self.console, "info", message, fields)

    def result(self, message: str, **fields: Any) -> None:
        """Log a result of the run, and keep its fields as `facts`."""
        self.facts |= fields
        self.info(message, **fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Log a problem that does not end the run."""
        self._say(self.console, "warning", message, fields)

    def failure(self, message: str, **fields: Any) -> None:
        """Log the error that ends the program."""
        self._say(self._errors, "error", message, fields)

    def traceback(self, text: str) -> None:
        """Log the traceback of an error."""
        self._say(self._errors, "debug", text, {})

    @contextmanager
    def document(self, format: str) -> Iterator[None]:
        """With `-o json`, write the result to standard output as one document, and all log lines to standard error."""
        if format != "json":
            yield
            return
        with redirect_stdout(sys.stderr):
            yield
        self.write_document(0, None)

    def write_document(self, exit_code: int, reason: str | None) -> None:
        """Write the facts, the exit code and the reason of a failure to standard output."""
        write(json.dumps(self.facts | {"exit_code": exit_code, "reason": reason}, indent=2, allow_nan=False) + "\n")

    def _say(self, console: Console, level: str, message: str, fields: dict[str, Any]) -> None:
        if self.json_lines:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            values = {name: _json_value(value) for name, value in fields.items()}
            console.print(json.dumps({"time": time, "level": level, "message": message} | values))
        else:
            console.print(f"mnist-job: {message}" if level == "error" else message, style=_STYLES.get(level))


class _Console(Console):
    """A console that prints text unchanged; in a terminal, with colours and above the progress bar."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Stop printing when the reader has gone (`| head`), but do not end the run."""
        _silence(self.file)


def _silence(file: Any) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, file.fileno())
    os.close(null)


def _json_value(value: Any) -> Any:
    """Return the value, or None for a number that is not finite: JSON has no such number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
