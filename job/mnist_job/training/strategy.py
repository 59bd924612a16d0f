"""The strategy that connects the workers, whose addresses are in TF_CONFIG."""

import json
import os
import socket
import time
from contextlib import suppress

import tensorflow as tf

from mnist_job.config.training import LoopSettings
from mnist_job.errors import ClusterError
from mnist_job.training import private

FIRST_WORKER_SECONDS = 30.0  # after this, TensorFlow waits for the first worker itself


def joined(config: LoopSettings) -> tf.distribute.Strategy:
    """Let TensorFlow use the CPUs or the GPU of this worker, and join the other workers.

    Raises ClusterError if a GPU is required and TensorFlow finds none.
    """
    tf.config.threading.set_intra_op_parallelism_threads(config.threads_per_worker)
    tf.config.threading.set_inter_op_parallelism_threads(config.threads_per_worker)
    if config.use_gpu and not tf.config.list_physical_devices("GPU"):
        raise ClusterError(
            "--use-gpu: TensorFlow sees no GPU in a worker that Ray gave one; the image or environment needs "
            "tensorflow[and-cuda] and the node its driver"
        )
    _await_first_worker()
    private.leave_silent_workers_to_ray(config.worker_timeout)
    # `timeout_seconds` is not set: it would start a thread for each collective that sleeps until the timeout (tsl's
    # SchedClosureAfter), and after about ten thousand steps no more threads could start. Ray Train's health check
    # finds silent workers instead.
    implementation = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            implementation=implementation.NCCL if config.use_gpu else implementation.RING
        )
    )


def _await_first_worker() -> None:
    """Wait until the first worker listens. TensorFlow would sleep for a second after its first look."""
    config = json.loads(os.environ["TF_CONFIG"])
    host, _, port = config["cluster"]["worker"][0].rpartition(":")
    started = time.monotonic()
    while config["task"]["index"] > 0 and time.monotonic() < started + FIRST_WORKER_SECONDS:
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return
        time.sleep(0.01)
