"""The whole job, from checking the data to delivering the results, and the parent process that supervises it.

Only `cli` imports this package. Read `job.py` first: it is the job on one page. `stages.py` has what its stages share,
`display.py` prints the progress, and `supervisor.py` reports a run that was killed.
"""
