"""The data: where they lie, what is refused, what is kept for validation.

`training`, `evaluation` and `pipeline` import this room. Start with `dataset.py`; `sources.py` knows where data sets
lie, `npz.py` reads a file that nobody vouches for, `verify.py` compares what a worker has with what was checked.
"""
