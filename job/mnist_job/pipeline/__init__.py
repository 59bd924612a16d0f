"""The whole job, from the check of its data to the delivery of its results, and the parent that outlives it.

Only `cli` imports this room. Start with `job.py`, which is the job on one page; `stages.py` is what its stages share,
`display.py` what a person sees meanwhile, `supervisor.py` who tells of a run that was killed.
"""
