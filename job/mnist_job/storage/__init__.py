"""Files on a disk or an object store, and the folders of a run: whose they are, and who may remove them.

All rooms above may import this one. Start with `folder.py` for what a run leaves, `owned.py` for what may be removed,
and `files.py` for paths and URIs.
"""
