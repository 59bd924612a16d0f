"""The address of the Ray cluster that a run uses, where the user set it, and the errors if it cannot be used."""

import os
import re
import resource
import socket
from pathlib import Path
from typing import NamedTuple

from mnist_job.bounds import CONNECT_SECONDS
from mnist_job.config.parts import RaySettings
from mnist_job.errors import ClusterError, UsageError

LOCAL = "local"
VARIABLE = "RAY_ADDRESS"
_WANTED = "give the address of the cluster's head as HOST:PORT, for example ray-head:6379"
_VERSIONS = re.compile(r"started with:\s*Ray: (\S+)\s*Python: (\S+)")


class Address(NamedTuple):
    """A Ray address (HOST:PORT, `auto` or `local`), and the name of the flag or variable that it was read from."""

    value: str
    name: str

    @property
    def is_local(self) -> bool:
        """Whether the job starts a local Ray, which ends with it."""
        return self.value == LOCAL

    def __str__(self) -> str:
        return f"{self.name} {self.value}"


def of(config: RaySettings) -> Address:
    """Return the address of a run: the setting or, if it is unset or `auto`, RAY_ADDRESS, as Ray itself does."""
    variable = os.environ.get(VARIABLE)
    if variable and config.address in (None, "auto"):
        return Address(variable, VARIABLE)
    return Address(config.address or LOCAL, "--address")


def check_form(address: Address) -> None:
    """Check the form of the address. Raises UsageError unless it is HOST:PORT, `auto` or `local`."""
    value = address.value
    if value in (LOCAL, "auto"):
        return
    scheme, separator, _ = value.partition("://")
    if separator and scheme == "ray":
        raise UsageError(f"{address}: is an address of Ray Client, which Ray Train cannot use; {_WANTED}")
    if separator:
        raise UsageError(f"{address}: is a URL, which the dashboard and the Jobs API have; {_WANTED}")
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"{address}: is not HOST:PORT; {_WANTED}")


def check_answers(value: str, told: str) -> None:
    """Connect to HOST:PORT once. Raises ClusterError, with a message that begins with `told`, if nothing listens."""
    host, _, port = value.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"{told}: {error}") from error


def check_token(address: Address) -> None:
    """Check that there is a token if RAY_AUTH_MODE requires one. Raises ClusterError if not.

    Without this check, Ray's C++ code would end the process.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        if Path(named or "~/.ray/auth_token").expanduser().read_text(encoding="utf-8").strip():
            return
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: there is no home directory
        pass
    raise _without_file(address) if named else _without_token(address, "demands a token, and none was given")


def _without_file(address: Address) -> ClusterError:
    return ClusterError(
        f"{address}: the file that RAY_AUTH_TOKEN_PATH names ({os.environ.get('RAY_AUTH_TOKEN_PATH')}) "
        "cannot be read or is empty; put the cluster's token into it"
    )


def _without_token(address: Address, what: str) -> ClusterError:
    return ClusterError(
        f"{address}: the cluster {what}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, a file) "
        "to what `ray get-auth-token` prints on the cluster's head"
    )


def refusal(address: Address, error: BaseException) -> ClusterError:
    """Return the ClusterError for an exception that Ray raised when it had to connect or to start."""
    told = "\n".join(str(cause) for cause in _causes(error))
    if address.is_local:
        return ClusterError(f"a local Ray cannot be started: {_local(error, told)}")
    where = f"{address}: "
    if "RAY_AUTH_TOKEN_PATH is set" in told:
        return _without_file(address)
    if "uthentication" in told:
        given = (
            os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and "no authentication token was found" not in told
        )
        has = "refuses the token that it was given" if given else "demands a token, and none was given"
        return _without_token(address, has)
    versions = _VERSIONS.findall(told)
    if len(versions) == 2:
        theirs, ours = (f"Ray {ray} and Python {python}" for ray, python in versions)
        return ClusterError(
            f"{where}the cluster runs {theirs}, but this program runs {ours}; install the cluster's versions here, or "
            "start the cluster with the versions of this program"
        )
    if "waiting for GCS" in told:
        return ClusterError(
            f"{where}something listens there, but it does not answer as a Ray head; {_WANTED}: not the port of the "
            "dashboard (8265) or of Ray Client (10001)"
        )
    return ClusterError(f"{where}no Ray cluster can be reached: {_first_line(error)}")


def _local(error: BaseException, told: str) -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        return (
            f"each of its processes may use only {limit / 2**30:.1f} GiB of address space (`ulimit -v`), and needs "
            f"more; raise the limit: `ulimit -v unlimited` ({_first_line(error)})"
        )
    if re.search(r"timed? ?out|timeout|in time|within \d+", told, re.IGNORECASE):
        return f"it was not ready in time ({_first_line(error)}); is the machine too busy? start again later"
    return _first_line(error)


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
