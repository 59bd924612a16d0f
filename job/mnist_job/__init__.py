"""Train a Keras 3 classifier data-parallel on Ray, evaluate it apart, report the result to Prometheus.

A room for each thing that one comes to change; imports go down this list only (`make test` checks it): cli, pipeline,
kubernetes, report, results, evaluation, distributed, training, models, data, config, storage, system. What stands
beside them is for all. `pipeline/job.py` is the whole job on one page.
"""

from importlib.metadata import version

__version__ = version("mnist-job")
