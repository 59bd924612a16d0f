"""A process of its own that runs the user's code before workers start: the driver imports neither it nor TensorFlow.

It is `python -m mnist_job.usercode.apart`, with requests on its standard input and answers on its standard output.
"""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, ParamSpec, TypeVar

from mnist_job import errors
from mnist_job.errors import JobError, UsageError, one_line
from mnist_job.system import environment, temporary
from mnist_job.usercode.files import Code

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class Apart:
    """The process, in which the user's code is importable. It starts at the first call, and ends with this context."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="mnist-job-")  # Python imports from the current folder
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 closed by __exit__

    def __enter__(self) -> "Apart":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._said.close()
        self._folder.cleanup()

    def call(
        self, name: str, function: Callable[Given, Returned], *args: Given.args, **kwargs: Given.kwargs
    ) -> Returned:
        """Return what the function of this package returns there. Its arguments and its result are pickled.

        Raises its JobError, and UsageError, which calls the user's code `name`, if the process dies.
        """
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((function, args, kwargs), process.stdin)
            process.stdin.flush()
            kind, answer = pickle.load(process.stdout)  # noqa: S301 from this module
        except (OSError, EOFError, pickle.UnpicklingError):
            raise UsageError(
                f"{name}: the process that tried it ended with {process.wait()}: {self._last_words()}"
            ) from None
        if kind is not None:
            refusal: JobError = getattr(errors, kind)(answer)
            raise refusal
        result: Returned = answer
        return result

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 this module
                [sys.executable, "-m", __spec__.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                cwd=self._folder.name,
            )
            assert self._process.stdin is not None
            pickle.dump(self._code, self._process.stdin)
        return self._process

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return one_line(lines[-1] if lines else "no message", 200)


def main() -> None:
    """Answer requests until there are no more. What the user's code prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    environment.pin_for_tensorflow(verbose=False)
    requests = sys.stdin.buffer
    code: Code = pickle.load(requests)  # noqa: S301 from the parent process
    with environment.importing_keras():  # as in the workers, before any code of the user
        importlib.import_module("keras")
    with temporary.private() as folder, code.importable(folder):
        while (answer := _answer(requests)) is not None:
            pickle.dump(answer, answers)
            answers.flush()


def _answer(requests: IO[bytes]) -> tuple[str | None, Any] | None:
    try:
        function, args, kwargs = pickle.load(requests)  # noqa: S301 from the parent process
    except EOFError:
        return None
    try:
        return None, function(*args, **kwargs)
    except JobError as error:
        return type(error).__name__, str(error)


if __name__ == "__main__":
    main()
