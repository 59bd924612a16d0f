"""Test what a client of an object store is told before it is made."""

import os
from types import SimpleNamespace

import pytest

from mnist_job.storage import files

METADATA = "AWS_EC2_METADATA_DISABLED"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"AWS_ACCESS_KEY_ID": "key"}, "true"),
        ({"AWS_ACCESS_KEY_ID": "key", METADATA: "false"}, "false"),
        ({}, None),  # the credentials may come from the metadata
    ],
)
def test_with_credentials_the_metadata_of_the_instance_is_not_asked(monkeypatch, given, expected):
    told = []
    for name in ("AWS_ACCESS_KEY_ID", METADATA):
        monkeypatch.setenv(name, "")  # so that it is as before at the end
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    made = SimpleNamespace(from_uri=lambda place: told.append(os.environ.get(METADATA)) or (None, "bucket/data"))
    monkeypatch.setattr(files.fs, "FileSystem", made)
    files.resolve("s3://bucket/data")
    assert told == [expected]
