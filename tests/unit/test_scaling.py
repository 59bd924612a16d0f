"""Test the model of the time of a step, which ops/benchmark/scaling.md describes."""

import pytest

from ops.benchmark.scaling import Model

TRUE = Model(fixed=2e-4, work=1e-10, alpha=3e-4, beta=2e-9)


def test_the_fit_finds_the_coefficients_that_made_the_times():
    sizes = (100_000, 6_000_000)
    alone = [
        {"rate": None, "workers": 1, "batch": batch, "parameters": size, "step": TRUE.compute(batch, size)}
        for size in sizes
        for batch in (16, 64, 512)
    ]
    joined = [
        {
            "rate": rate,
            "cpus": 2,
            "workers": n,
            "batch": 64,
            "parameters": size,
            "all_reduce": TRUE.all_reduce(n, size, rate, sharing=n / 2),
        }
        for rate in (1e9, 1e8)
        for n in (2, 3, 4)
        for size in sizes
    ]
    latency = {"rate": None, "workers": 2, "all_reduce": 2 * TRUE.alpha}
    found = Model.fitted([*alone, latency, *joined])
    for name in ("fixed", "work", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name


def test_a_ring_sends_two_messages_to_each_other_worker_and_each_byte_nearly_twice():
    ring = Model(fixed=0, work=0, alpha=1, beta=0)
    assert ring.all_reduce(5, parameters=0, rate=1) == 8
    bytes_only = Model(fixed=0, work=0, alpha=0, beta=1)
    assert bytes_only.all_reduce(4, parameters=1000, rate=float("inf")) == pytest.approx(2 * 3 / 4 * 4000)
