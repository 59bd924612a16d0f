"""A file system that the program treats as an object store, but on a disk that a test can read: `store:///path`."""

import fsspec
from fsspec.implementations.local import LocalFileSystem

RUN, LATER = "20260101T000000Z-0001", "20260102T000000Z-0002"


class Store(LocalFileSystem):
    """A file system without locks and renames for the program, because its protocol is not that of a local one."""

    protocol = "store"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return LocalFileSystem._strip_protocol(path.removeprefix("store://"))


fsspec.register_implementation("store", Store, clobber=True)
