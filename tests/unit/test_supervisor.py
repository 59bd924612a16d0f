"""Test the supervising parent, with children that die in every way. A few lines of Python stand for the driver."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import WAIT_SECONDS, wait_for
from tests.unit.test_metrics import values

PRELUDE = """
import os, signal, subprocess, sys, time, warnings
from mnist_job.cli import main as cli
from mnist_job.pipeline import supervisor
from mnist_job.config.settings import JobConfig
from mnist_job.errors import DataError
from mnist_job.system.fork import tell
from mnist_job.log import Log

def ready(*words):
    print("ready", os.getpid(), os.environ["TMPDIR"], *words, flush=True)

def work():
{work}
    return 0

log = Log(sys.stdout)
config = JobConfig(metrics_textfile="job.prom", **{settings})
{before}

def command():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, cli._interrupt)
    return supervisor.supervised(
        config, log, lambda: cli._concluded(work, log, as_document={document}), dry_run={dry_run}
    )

sys.exit(cli._concluded(command, log, as_document={document}))
"""


def program(
    work: str, *, document: bool = False, dry_run: bool = False, before: str = "", **settings: object
) -> list[str]:
    """Return a program whose driver does `work`."""
    indented = "\n".join(f"    {line}" for line in work.splitlines())
    script = PRELUDE.format(work=indented, settings=settings, document=document, dry_run=dry_run, before=before)
    return [sys.executable, "-c", script]


def ended(work: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program(work, **options), cwd=cwd, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )


def started(work: str, cwd: Path, **options: object) -> tuple[subprocess.Popen[str], list[str]]:
    """Start the program. Yield it, and what its driver printed when it was `ready`: its id, its TMPDIR, and more."""
    process = subprocess.Popen(
        program(work, **options),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline().split()
    assert said[:1] == ["ready"], process.communicate()
    return process, said[1:]


DEATHS = {
    "os.kill(os.getpid(), signal.SIGKILL)": (
        "the driver was killed by SIGKILL (137), perhaps because it ran out of memory: "
        "give it more (on Kubernetes head.resources)"
    ),
    "os.write(2, b'no room left\\n')\nos.abort()": "the driver died of SIGABRT (134): no room left",
    "os.write(2, b'[core] Connection lost\\n')\nos._exit(1)": (
        "the driver ended with exit code 1 before it was done: [core] Connection lost"
    ),
    "tell(ray='127.0.0.1:9')\nos._exit(1)": "the Ray cluster at 127.0.0.1:9 went away",
}


@pytest.mark.parametrize("work", DEATHS)
def test_a_driver_that_dies_is_told_by_a_sentence_a_code_and_the_metrics(tmp_path, work):
    (tmp_path / "job.prom").write_text("mnist_job_test_loss 0.5\nmnist_job_last_run_succeeded 1.0\n")
    result = ended(work, tmp_path)
    sentence = f"mnist-job: {DEATHS[work]}; the same command resumes from the last checkpoint\n"
    assert (result.returncode, result.stdout, result.stderr) == (4, "", sentence)
    told = values((tmp_path / "job.prom").read_text())
    assert (told["mnist_job_last_run_succeeded"], told["mnist_job_test_loss"]) == (0, 0.5)


def test_a_script_gets_its_document_from_a_driver_that_died(tmp_path):
    result = ended("os._exit(1)", tmp_path, document=True)
    reason = "the driver ended with exit code 1 before it was done; the same command resumes from the last checkpoint"
    assert result.stdout == f'{{\n  "exit_code": 4,\n  "reason": "{reason}"\n}}\n'


def test_a_dry_run_that_dies_is_told_and_not_published(tmp_path):
    assert ended("os.abort()", tmp_path, dry_run=True).returncode == 4
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_cannot_be_published_is_told_with_the_reason(tmp_path):
    (tmp_path / "job.prom").mkdir()
    first, second = ended("os.abort()", tmp_path).stderr.splitlines()
    assert "SIGABRT" in first
    assert "the failure could not be reported: --metrics-textfile job.prom: is not a file" in second


@pytest.mark.parametrize(
    ("work", "code"),
    [("pass", 0), ("raise DataError('no such file')", 3), ("raise KeyboardInterrupt", 130), ("raise ValueError", 1)],
)
def test_a_driver_that_ends_by_itself_says_how_itself(tmp_path, work, code):
    result = ended(work, tmp_path)
    assert result.returncode == code
    assert not (tmp_path / "job.prom").exists()
    last = result.stderr.splitlines()[-1:]
    assert last == {0: [], 1: ["ValueError"], 3: ["mnist-job: no such file"]}.get(code, last)


def test_only_what_c_writes_to_standard_error_is_kept_back(tmp_path):
    work = "os.write(2, b'from C')\nprint('from Python', file=sys.stderr)\nwarnings.warn('careful')\nlog.failure('so')"
    quiet, all_of_it = ended(work, tmp_path), ended(work, tmp_path, verbose=True)
    assert "from C" not in quiet.stderr
    assert "from C" in all_of_it.stderr
    for result in (quiet, all_of_it):
        assert "from Python\n" in result.stderr
        assert "UserWarning: careful" in result.stderr
        assert "mnist-job: so\n" in result.stderr


def test_more_than_a_pipe_holds_stops_no_driver(tmp_path):
    assert ended("for _ in range(100):\n    os.write(2, bytes(100_000))", tmp_path).returncode == 0


SLEEPER = """
import subprocess
left = subprocess.Popen(["setsid", "sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
ready(left.pid, left.stdout.readline().strip())
"""


@pytest.mark.parametrize("last", ["os._exit(1)", "pass"])
def test_nothing_that_a_driver_has_started_outlives_it(tmp_path, last):
    process, said = started(f"{SLEEPER}\n{last}", tmp_path)
    process.communicate(timeout=WAIT_SECONDS)
    assert not [pid for pid in map(int, said[2:]) if psutil.pid_exists(pid)]
    assert not Path(said[1]).exists()


def test_a_process_that_was_there_before_is_left_alone(tmp_path):
    """A shell starts another process, and then replaces itself with the program by `exec`."""
    command = ["sh", "-c", 'sleep 1000 >&- 2>&- & echo $!; exec "$@"', "sh", *program("os._exit(1)")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert result.returncode == 4
    psutil.Process(int(result.stdout)).kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_group", [True, False])
def test_a_driver_is_interrupted_once_whoever_gets_the_signal(tmp_path, number, to_group):
    work = "try:\n    ready()\n    time.sleep(1000)\nfinally:\n    time.sleep(0.3)\n    print('cleared up', flush=True)"
    process, _ = started(work, tmp_path)
    (os.killpg if to_group else os.kill)(process.pid, number)
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, stdout, len(stderr.splitlines())) == (130, "cleared up\n", 1)
    assert "interrupted" in stderr


def test_a_driver_that_is_signalled_itself_is_interrupted(tmp_path):
    process, (driver, *_) = started("ready()\ntime.sleep(1000)", tmp_path)
    os.kill(int(driver), signal.SIGTERM)
    assert (process.wait(WAIT_SECONDS), process.communicate()[1].count("\n")) == (130, 1)


def test_the_third_interrupt_ends_a_driver_that_hears_none(tmp_path):
    work = "signal.pthread_sigmask(signal.SIG_BLOCK, [2, 15])\nready()\nsignal.sigwait([2])\nready()\ntime.sleep(1000)"
    process, (driver, folder) = started(work, tmp_path)
    process.send_signal(signal.SIGINT)
    wait_for(process, "ready")
    process.send_signal(signal.SIGTERM)
    wait_for(process, "still stopping; a third signal ends it immediately")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert (
        stderr == "mnist-job: interrupted, and ended immediately; the same command resumes from the last checkpoint\n"
    )
    assert values((tmp_path / "job.prom").read_text())["mnist_job_last_run_succeeded"] == 0
    assert not psutil.pid_exists(int(driver))
    assert not Path(folder).exists()


def test_a_driver_that_ignores_its_timeout_ends_with_the_code_of_its_stage(tmp_path):
    work = "tell(stage='TrainingError')\nready()\ntime.sleep(1000)"
    result = ended(work, tmp_path, timeout=0.1, before="supervisor.DEAF_SECONDS = 0")
    sentence = "mnist-job: --timeout 0.1: the run took longer, and did not stop when it was interrupted\n"
    assert (result.returncode, result.stderr) == (5, sentence)
    assert values((tmp_path / "job.prom").read_text())["mnist_job_last_run_succeeded"] == 0


@pytest.mark.parametrize(
    "before", ["pass", "from mnist_job.system import processes; processes._prctl = lambda *_: False"]
)
def test_a_driver_ends_with_its_parent_and_the_next_run_clears_up(tmp_path, before):
    """The kernel does this, or a thread on systems whose kernel cannot."""
    before = f"{before}; supervisor._PLACES = [{str(tmp_path)!r}]"  # no other test's run clears up there
    process, (driver, folder) = started("ready()\ntime.sleep(1000)", tmp_path, before=before)
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)  # until the driver has also closed its standard output
    psutil.wait_procs([psutil.Process(int(driver))] if psutil.pid_exists(int(driver)) else [], WAIT_SECONDS)
    assert Path(folder).exists()
    assert ended("pass", tmp_path, before=before).returncode == 0
    assert not Path(folder).exists()


def test_a_terminal_gets_its_cursor_back(tmp_path):
    work = "from mnist_job.pipeline.display import Display\nwith Display(log).stage('training', 3):\n    os.abort()"
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    subprocess.run(program(work), cwd=tmp_path, stdout=theirs, stderr=theirs, env=environment, check=False)
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"SIGABRT" in shown


def a_local_ray(threads: int) -> str:
    """Return a driver with many threads, and a process in the place of its GCS, which ends with it as Ray's does."""
    return f"""
import shutil, threading
from mnist_job.system import processes
os.symlink(shutil.which("sleep"), "gcs_server")
tell(ray="local")
dies_with = lambda: processes._prctl(1, signal.SIGKILL)
part = subprocess.Popen([os.path.abspath("gcs_server"), "1000"], preexec_fn=dies_with)
for _ in range({threads}):
    threading.Thread(target=time.sleep, args=[1000], daemon=True).start()
ready(part.pid)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("victim", "sentence"),
    [(0, "the driver was killed by SIGKILL (137)"), (2, "the local Ray has ended: its GCS was killed by SIGKILL")],
    ids=["driver", "GCS"],
)
def test_the_one_that_was_killed_is_named_and_not_the_one_that_followed(tmp_path, victim, sentence):
    process, said = started(a_local_ray(threads=300), tmp_path)
    deadline = time.monotonic() + WAIT_SECONDS
    while "pidfd" not in open_files(process.pid):  # the parent has seen the GCS
        assert time.monotonic() < deadline
    os.kill(int(said[victim]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, len(stderr.splitlines())) == (4, 1), stderr
    assert sentence in stderr


def open_files(pid: int) -> str:
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(file.readlink()))
    return " ".join(found)
