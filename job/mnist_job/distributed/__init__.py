"""Ray: which cluster, whether it has room, and Ray Train around the loop.

`pipeline`, `evaluation` and `kubernetes` import this room, and it imports `training`, whose loop it starts on each
worker. Start with `trainer.py` for how workers start and are lost, and with `cluster.py` for where they run.
"""
