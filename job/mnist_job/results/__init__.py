"""What a run ends with, as data, and each form in which it is handed on.

`pipeline`, `kubernetes` and `report` import this room. Start with `outcome.py`; `metrics.py` is the same for
Prometheus, `exporter.py` serves it, `live.py` and `tensorboard.py` show a run in progress, and `earlier.py` knows what
runs before have left.
"""
