"""Run the reference notebook on Keras's JAX backend: `python -m ops.benchmark.keras_jax MNIST.npz`. Prints JSON."""

import os
import sys

if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "jax"
    from ops.benchmark import notebook

    notebook.main(*sys.argv[1:])
