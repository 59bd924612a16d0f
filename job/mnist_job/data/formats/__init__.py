"""The formats of data sets. Each module reads one of them: it finds the parts, and reads a part's samples.

`data/sources.py` imports this package. Read `whole.py` first: what a format gives, and what all formats share.
"""
