"""Say in one sentence why workers were lost."""

from ray.train.v2.api.exceptions import WorkerGroupError

from mnist_job.errors import JobError, last_line


def refusal(failure: Exception) -> JobError | None:
    """Return the JobError that a worker has raised, or None. A retry does not help against it."""
    return refused(failure.worker_failures) if isinstance(failure, WorkerGroupError) else None


def refused(failures: dict[int, Exception]) -> JobError | None:
    """Return the first JobError among the failures of the workers, which are given by rank, or None."""
    return next((error for error in failures.values() if isinstance(error, JobError)), None)


def lost(failure: Exception) -> dict[int, Exception]:
    """Return the failures of lost workers, by rank. It is empty if Ray Train has failed itself."""
    if isinstance(failure, WorkerGroupError):
        return failure.worker_failures
    announced = getattr(failure, "preemption_info", None)  # of a PreemptionError, which not every Ray has
    return dict.fromkeys(announced.preempted_ranks, failure) if announced is not None else {}


def reason(error: Exception, nodes: list[str], worker_timeout: float) -> str:
    """Return why Ray Train's `fit` has failed with `error`.

    `nodes` has the name of each worker's node, by rank, as far as it is known; `worker_timeout` is in seconds.
    """
    if failures := lost(error):
        return first_cause(failures, nodes, worker_timeout)
    return f"Ray Train's controller: {last_line(getattr(error, 'controller_failure', error))}"


_DEAD = "the process of {worker} died (killed, perhaps because it ran out of memory, or its node was lost)"
# Parts of Ray's messages about a lost worker, and the sentence for each. The first that fits is used.
_FATES = {
    "interrupted by node preemption": "{worker} was lost because its node was taken away",
    "out of memory issue": "{worker} was killed because its node or pod ran out of memory; "
    "give it more memory, or use a smaller model, batch or data set",
    "worker process has died": _DEAD,
    "actor died": _DEAD,
    "health check has been hanging": "{worker} did not answer for {seconds:g} seconds (--worker-timeout)",
}


def first_cause(failures: dict[int, Exception], nodes: list[str], worker_timeout: float) -> str:
    """Return the failure that caused the others: when a worker dies, the workers that wait for it fail too."""

    def worker(rank: int) -> str:
        return f"worker {rank} on node {nodes[rank]}" if rank < len(nodes) else f"worker {rank}"

    for told, sentence in _FATES.items():
        ranks = [rank for rank, error in failures.items() if told in str(error)]
        if ranks:
            return sentence.format(worker=worker(min(ranks)), seconds=worker_timeout)
    return f"{worker(min(failures))}: {last_line(failures[min(failures)])}"
