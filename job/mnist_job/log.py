"""What the job says: sentences for people or, by `--log-format json`, an object a line for log collectors."""

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
    """To standard output, all of it or what is read of it: a reader that goes (`| head -1`) is no failure."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)


class Log:
    """Lines with a level and, for programs, fields: a sentence, or an object of `time`, `level`, `message` and these.

    What goes wrong for good is said to standard error, all else to `file`, as it is now: Ray puts another in its place.
    """

    def __init__(self, file: TextIO | None = None, *, json_lines: bool = False) -> None:
        self.json_lines = json_lines
        self.verbose = False
        self.console = _Console(file or sys.stdout)
        self.facts: dict[str, Any] = {}  # what `result` was told, for `-o json`
        self._errors = _Console(sys.stderr)

    def follow(self, before: TextIO, file: TextIO) -> None:
        """Write to `file` from now on what went to `before`."""
        for console in (self.console, self._errors):
            if console.file is before:
                console.file = file

    def restore_terminal(self) -> None:
        """End the bar of a process that could not: its line goes, and the cursor is there again."""
        if self.is_live:
            self.console.control(Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2)))
            self.console.show_cursor(True)

    @property
    def is_live(self) -> bool:
        """Whether a bar may be drawn, by the console's `file`: FORCE_COLOR makes no terminal of a pipe."""
        return self.console.file.isatty() and not self.console.is_dumb_terminal and not self.json_lines

    def info(self, message: str, **fields: Any) -> None:
        """A step that went as it should."""
        self._say(self.console, "info", message, fields)

    def result(self, message: str, **fields: Any) -> None:
        """What a run is for. Its fields are remembered as `facts`."""
        self.facts |= fields
        self.info(message, **fields)

    def warning(self, message: str, **fields: Any) -> None:
        """What should not have been, and is being mended."""
        self._say(self.console, "warning", message, fields)

    def failure(self, message: str, **fields: Any) -> None:
        """Why the program ends."""
        self._say(self._errors, "error", message, fields)

    def traceback(self, text: str) -> None:
        """Where an error was raised."""
        self._say(self._errors, "debug", text, {})

    @contextmanager
    def document(self, format: str) -> Iterator[None]:
        """By `-o json`, standard output gets the result as one document, and standard error all else that is said."""
        if format != "json":
            yield
            return
        with redirect_stdout(sys.stderr):
            yield
        self.write_document(0, None)

    def write_document(self, exit_code: int, reason: str | None) -> None:
        """The facts, and how it ended, to standard output."""
        write(json.dumps(self.facts | {"exit_code": exit_code, "reason": reason}, indent=2, allow_nan=False) + "\n")

    def _say(self, console: Console, level: str, message: str, fields: dict[str, Any]) -> None:
        if self.json_lines:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            values = {name: _json_value(value) for name, value in fields.items()}
            console.print(json.dumps({"time": time, "level": level, "message": message} | values))
        else:
            console.print(f"mnist-job: {message}" if level == "error" else message, style=_STYLES.get(level))


class _Console(Console):
    """Prints text as it is; in a terminal, with colours, and above a live bar."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Nobody reads any more (`| head`): that ends the lines, and not the run."""
        _silence(self.file)


def _silence(file: Any) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, file.fileno())
    os.close(null)


def _json_value(value: Any) -> Any:
    """JSON has no word for a loss that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
