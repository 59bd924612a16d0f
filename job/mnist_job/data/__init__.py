"""The data set: find it, read it, check it, and split off the validation part.

`training`, `evaluation` and `pipeline` import this package. Read `dataset.py` first. `sources.py` finds data sets,
`formats/` reads them, `arrays.py` takes what a user's function returns, and `verify.py` checks that each worker has the
same data.
"""
