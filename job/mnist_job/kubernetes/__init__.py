"""The Kubernetes API: the user's commands (submit, status, logs, cancel, list), and the result that a job writes.

`cli` and `pipeline` import this package. No other package imports the Kubernetes client. Read `commands.py` first for
the user's side, and `result.py` for what a job in a pod writes. Both send their requests through `api.py`.
"""
