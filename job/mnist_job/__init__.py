"""Train a Keras 3 classifier data-parallel on Ray, evaluate it apart, report the result to Prometheus."""

from importlib.metadata import version

__version__ = version("mnist-job")
