"""Ray: connect to a cluster, check that it has room, and start the training loop with Ray Train.

`pipeline`, `evaluation` and `kubernetes` import this package. It imports `training`, whose loop it starts on each
worker. Read `trainer.py` first to see how workers start and restart, and `cluster.py` to see where they run.
"""
