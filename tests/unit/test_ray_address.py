"""Test the messages about addresses. tests/ray/test_address.py tests those that need a head."""

import resource

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.distributed import addresses
from mnist_job.distributed.addresses import Address
from mnist_job.errors import UsageError


@pytest.mark.parametrize(
    ("setting", "variable", "address"),
    [
        (None, None, Address("local", "--address")),
        (None, "", Address("local", "--address")),
        (None, "head:6379", Address("head:6379", "RAY_ADDRESS")),
        ("auto", "head:6379", Address("head:6379", "RAY_ADDRESS")),
        ("auto", None, Address("auto", "--address")),
        ("here:1", "head:6379", Address("here:1", "--address")),
        ("local", "head:6379", Address("local", "--address")),
    ],
)
def test_the_address_and_where_it_was_written(monkeypatch, setting, variable, address):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert addresses.of(JobConfig(address=setting)) == address


@pytest.mark.parametrize("value", ["local", "auto", "ray-head:6379", "192.0.2.1:1", "[fd00::2]:6379"])
def test_an_address_that_can_be_one(value):
    addresses.check_form(Address(value, "--address"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("ray://head:10001", "is an address of Ray Client, which Ray Train cannot use"),
        ("http://head:8265", "is a URL, which the dashboard and the Jobs API have"),
        ("head", "is not HOST:PORT"),
        ("head:", "is not HOST:PORT"),
        ("head:70000", "is not HOST:PORT"),
        (":6379", "is not HOST:PORT"),
    ],
)
@pytest.mark.parametrize("name", ["--address", "RAY_ADDRESS"])
def test_an_address_of_another_kind_is_refused_with_the_one_that_is_wanted(name, value, sentence):
    with pytest.raises(UsageError) as refused:
        addresses.check_form(Address(value, name))
    assert str(refused.value).startswith(f"{name} {value}: {sentence}")
    assert "give the address of the cluster's head as HOST:PORT" in str(refused.value)


LOCAL = Address("local", "--address")


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because some of the raylet failed."),
        TimeoutError("Timed out after 30 seconds while waiting for node to startup."),
    ],
)
def test_a_machine_that_is_too_busy_blames_no_address(error):
    told = str(addresses.refusal(LOCAL, error))
    assert told.startswith("a local Ray cannot be started: it was not ready in time")
    assert "is the machine too busy? start again later" in told
    assert "--address" not in told


def test_a_limit_on_addresses_is_named(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4 * 2**30, 4 * 2**30))
    told = str(addresses.refusal(LOCAL, Exception("The current node timed out during startup.")))
    assert "each of its processes may use only 4.0 GiB of address space (`ulimit -v`)" in told
    assert "`ulimit -v unlimited`" in told
