"""Test how the loss of a worker is reported: one sentence, about the worker that was lost first."""

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError
from ray.train.v2.api.exceptions import PreemptionError
from ray.train.v2.api.preemption import PreemptionInfo

from mnist_job.distributed.failures import first_cause, reason
from mnist_job.distributed.worker import own_words

NODES = ["head", "node-a"]
SILENT = WorkerHealthCheckTimeoutError("A worker health check has been hanging for 61.20 seconds. Marking it as dead.")


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ({1: SILENT}, "worker 1 on node node-a did not answer for 60 seconds (--worker-timeout)"),
        (
            {0: Exception("UnavailableError: Connection reset"), 1: SILENT},
            "worker 1 on node node-a did not answer for 60 seconds (--worker-timeout)",
        ),
        (
            {0: SILENT, 1: Exception("Worker failed.\nThe actor died unexpectedly before finishing this task.")},
            "the process of worker 1 on node node-a died "
            "(killed, perhaps because it ran out of memory, or its node was lost)",
        ),
        ({0: Exception("Trace\nUnavailableError: x")}, "worker 0 on node head: UnavailableError: x"),
        ({7: Exception("UnavailableError: x")}, "worker 7: UnavailableError: x"),
    ],
)
def test_the_worker_that_was_lost_first_is_named_with_its_node(failures, told):
    assert first_cause(failures, NODES, 60) == told


def test_a_node_that_was_taken_away_is_told():
    error = PreemptionError(PreemptionInfo(None, {"a": [1]}))
    assert reason(error, NODES, 60) == "worker 1 on node node-a was lost because its node was taken away"


def test_a_tensorflow_error_is_told_without_the_places_in_the_program():
    message = """Graph execution error:

Detected at node while/CollectiveGatherV2 defined at (most recent call last):
  File "/opt/job/mnist_job/training/loop.py", line 149, in step

  File "/opt/job/mnist_job/training/optimizer.py", line 29, in apply

Node: 'while/CollectiveGatherV2'
Collective ops is aborted by: Connection reset
by peer
\t [[{{node while/CollectiveGatherV2}}]] [Op:__inference_train_epoch_1234]"""
    assert own_words(message) == "Collective ops is aborted by: Connection reset by peer"
    without_node = "\n".join(line for line in message.splitlines() if not line.startswith("Node"))
    assert own_words(without_node) == "Collective ops is aborted by: Connection reset by peer"
    assert own_words("OOM when allocating\ntensor") == "OOM when allocating tensor"
