"""A file system that the program treats as an object store, on a disk where a test can look at it: `store:///path`."""

import fsspec
from fsspec.implementations.local import LocalFileSystem

RUN, LATER = "20260101T000000Z-0001", "20260102T000000Z-0002"


class Store(LocalFileSystem):
    """Without locks and renames, since it is not a local file system in name."""

    protocol = "store"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return LocalFileSystem._strip_protocol(path.removeprefix("store://"))


fsspec.register_implementation("store", Store, clobber=True)
