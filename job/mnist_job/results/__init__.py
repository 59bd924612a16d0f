"""The outcome of a run as data, and the forms in which it is published.

`pipeline`, `kubernetes` and `report` import this package. Read `outcome.py` first. `metrics.py` formats an outcome for
Prometheus, and `exporter.py` serves it. `live.py` and `tensorboard.py` publish the progress of a run, and `earlier.py`
reads the results of earlier runs.
"""
