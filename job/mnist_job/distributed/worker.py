"""What Ray Train starts on each worker: the loop, in an environment that is the same everywhere."""

import re
from typing import Any

from mnist_job.bounds import worth_a_restart
from mnist_job.distributed import affinity
from mnist_job.errors import JobError, TrainingError
from mnist_job.phases import Clock
from mnist_job.system import environment, temporary

PLACES = r"^(Graph execution error:|Detected at node .*|\s*File \".*|Node: '.*')$"
"""Lines of a TensorFlow error that say where in the program the graph was made."""


def work(arguments: dict[str, Any]) -> None:
    """Run the loop on a worker. TensorFlow is imported here, after its environment variables are set."""
    config = arguments["config"]
    environment.pin_for_tensorflow(verbose=config.verbose)
    if arguments["own_cpus"]:
        affinity.keep_to_own_cpus(config.threads_per_worker)
    clock = Clock()
    with environment.importing_keras():
        from mnist_job.training import loop

    clock.ended("imports")
    origin = arguments["origin"]
    try:
        with temporary.private() as folder, origin.code.importable(folder):
            loop.train(config, origin, arguments["checked"], arguments["checkpoints"], arguments["tell"], clock)
    except JobError:
        raise
    except Exception as error:
        # As text: a TensorFlow exception would make the driver import TensorFlow to unpickle it.
        text = f"{type(error).__name__}: {own_words(str(error))}"
        if worth_a_restart(error):
            raise WorkerError(text) from error
        raise TrainingError(f"training failed: {text} (--verbose shows where)") from error


def own_words(message: str) -> str:
    """Return a TensorFlow error without the traceback at its start and the graph nodes at its end."""
    words = re.sub(PLACES, "", message, flags=re.MULTILINE)
    return " ".join(words.partition("[[{{")[0].split())[:500]


class WorkerError(Exception):
    """An error of a worker's loop, as text. A restart of all workers may solve it."""
