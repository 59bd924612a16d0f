"""Train a Keras 3 model data-parallel on Ray, evaluate it in a separate task, report the result to Prometheus.

Each subpackage serves one purpose. A subpackage may import only those that come after it in this list (`make test`
checks it): cli, pipeline, kubernetes, report, results, evaluation, distributed, training, models, data, config,
storage, system. All of them may import the modules in this folder. `pipeline/job.py` shows the whole job on one page.
"""

from importlib.metadata import version

__version__ = version("mnist-job")
