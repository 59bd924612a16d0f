"""Files on a disk or an object store, and the folders of a run: which run owns them, and what may be removed.

All packages except `system` may import this one. Read `folder.py` first for the files of a run, `owned.py` for what may
be removed, and `files.py` for paths and URIs.
"""
