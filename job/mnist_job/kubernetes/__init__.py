"""All that asks the Kubernetes API: the user's commands (submit, status, logs, cancel, list) and the job's result.

`cli` and `pipeline` import this room, and nothing else imports the client. Start with `commands.py` for the user's
side, and with `result.py` for what a job in a pod writes; both ask through `api.py`.
"""
