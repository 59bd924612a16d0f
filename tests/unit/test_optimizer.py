"""Test that the fast update is Keras's own Adam, for all arguments that it is used for, and for no others."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_job.training import optimizer, private

PLAIN = {
    "learning_rate": st.floats(1e-6, 1.0),
    "beta_1": st.floats(0.0, 0.999),
    "beta_2": st.floats(0.1, 0.999),
    "epsilon": st.floats(1e-8, 1e-2),
}
OTHERS = [
    {"amsgrad": True},
    {"weight_decay": 0.1},
    {"clipnorm": 1.0},
    {"global_clipnorm": 1.0},
    {"clipvalue": 1.0},
    {"use_ema": True},
    {"loss_scale_factor": 2.0},
    {"gradient_accumulation_steps": 2},
]


def variables(constraint=None) -> list[keras.Variable]:
    layer = keras.layers.Dense(3, kernel_constraint=constraint)
    layer.build((None, 2))
    layer.kernel.assign(np.arange(6, dtype=np.float32).reshape(2, 3) / 6)
    return layer.trainable_variables


@settings(max_examples=25, deadline=None)
@given(arguments=st.fixed_dictionaries(PLAIN), seed=st.integers(0, 2**16), scale=st.floats(1e-4, 1e3))
def test_the_kernel_is_keras_own_adam(arguments, seed, scale):
    ours, theirs = variables(), variables()
    fast, slow = keras.optimizers.Adam(**arguments), keras.optimizers.Adam(**arguments)
    update = optimizer.update(fast, ours)
    slow.build(theirs)
    random = np.random.default_rng(seed)
    for _ in range(4):
        gradients = [(random.normal(size=v.shape) * scale).astype(np.float32) for v in ours]
        update(gradients)
        slow.apply(gradients, theirs)
    for mine, other in zip((*ours, *fast.variables), (*theirs, *slow.variables), strict=True):
        # A step has the size of the learning rate; both round `1 - beta_2**step` in float32.
        assert np.asarray(mine) == pytest.approx(
            np.asarray(other), rel=1e-3, abs=1e-3 * arguments["learning_rate"] + 1e-6
        )


@pytest.mark.parametrize("argument", OTHERS, ids=lambda argument: next(iter(argument)))
def test_adam_with_another_argument_is_keras_own(argument, monkeypatch):
    monkeypatch.setattr(optimizer, "_adam", lambda *_: pytest.fail("the kernel does not know this"))
    weights = variables()
    optimizer.update(keras.optimizers.Adam(**argument), weights)([np.ones(v.shape, np.float32) for v in weights])


@pytest.mark.parametrize(
    "kind", [keras.optimizers.AdamW, keras.optimizers.Nadam, type("Mine", (keras.optimizers.Adam,), {})]
)
def test_another_optimizer_is_keras_own(kind, monkeypatch):
    monkeypatch.setattr(optimizer, "_adam", lambda *_: pytest.fail("it is another optimizer"))
    weights = variables()
    optimizer.update(kind(), weights)([np.ones(v.shape, np.float32) for v in weights])


def test_a_constraint_is_applied():
    weights = variables(keras.constraints.MaxNorm(0.1))
    optimizer.update(keras.optimizers.Adam(), weights)([np.ones(v.shape, np.float32) for v in weights])
    assert np.linalg.norm(np.asarray(weights[0]), axis=0).max() <= 0.1 + 1e-6


def test_a_variable_without_a_gradient_stays():
    weights = variables()
    before = [np.asarray(v) for v in weights]
    optimizer.update(keras.optimizers.Adam(), weights)([np.ones(weights[0].shape, np.float32), None])
    assert not np.array_equal(np.asarray(weights[0]), before[0])
    assert np.array_equal(np.asarray(weights[1]), before[1])


def test_a_keras_that_hides_adams_moments_is_used_as_it_is(monkeypatch):
    monkeypatch.setattr(private, "moments", lambda _: None)
    monkeypatch.setattr(optimizer, "_adam", lambda *_: pytest.fail("the moments are not known"))
    weights = variables()
    optimizer.update(keras.optimizers.Adam(), weights)([np.ones(v.shape, np.float32) for v in weights])


def test_an_optimizer_that_is_built_keeps_its_variables():
    """Like that of a saved model. Keras's loss scale would get a second set of them."""
    variables = [keras.Variable(np.ones(3, np.float32))]
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(momentum=0.9))
    scaled.build(variables)
    before = list(scaled.variables)
    optimizer.update(scaled, variables)
    assert [id(variable) for variable in scaled.variables] == [id(variable) for variable in before]
