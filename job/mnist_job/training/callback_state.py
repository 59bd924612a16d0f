"""The state of the user's callbacks as bytes, for a checkpoint, and back.

A state is what `__getstate__` returns, by default all attributes. The model, its layers and variables, the optimizer
and the callbacks themselves are saved as references: after a resume, they are those of the new process. So are the
functions of modules. A function inside a function is made again by the user's code; what it has enclosed is state.
"""

import io
import pickle
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from mnist_job.errors import one_line
from mnist_job.training import private
from mnist_job.training.compiled import Compiled

_OF_KERAS = ("_model", "params")  # `set_model` and `set_params` set them


class Unsaved(Exception):  # noqa: N818 what happened
    """A callback has a state that cannot be saved. The message names the callback, and why."""


class _Enclosed(NamedTuple):
    """What a function in an attribute has enclosed: the contents of its cells."""

    contents: tuple[Any, ...]


def saved(callbacks: Sequence[keras.callbacks.Callback], model: Compiled, stopped_by: str | None) -> bytes:
    """Return the state of the callbacks, with the one that has stopped training. Raises Unsaved.

    Objects that several of them share stay shared.
    """
    shared = _shared(callbacks, model)
    for callback in callbacks:  # to name the one that fails
        state = _state(callback)
        for name, value in state.items() if isinstance(state, dict) else [("", state)]:
            try:
                _Writer(io.BytesIO(), shared).dump(value)
            except Exception as error:
                attribute = f" its attribute {name}" if name else " it"
                raise Unsaved(
                    f"{type(callback).__name__}: the checkpoints cannot have{attribute}, so a resume would lose it: "
                    f"{one_line(f'{type(error).__name__}: {error}', 150)}; leave it out in __getstate__()"
                ) from error
    content = io.BytesIO()
    _Writer(content, shared).dump(([_state(callback) for callback in callbacks], stopped_by))
    return content.getvalue()


def restore(content: bytes, callbacks: Sequence[keras.callbacks.Callback], model: Compiled) -> str | None:
    """Give the callbacks the state that `saved` has returned for the same callbacks of the same model.

    Return which callback has stopped training, or None.

    Raises Unsaved if a function that was in an attribute is not there now.
    """
    found = _Reader(io.BytesIO(content), _shared(callbacks, model)).load()
    states, stopped_by = found if isinstance(found, tuple) else (found, None)  # old checkpoints have only the states
    for callback, state in zip(callbacks, states, strict=True):
        if isinstance(state, dict):
            for name in [name for name, value in state.items() if isinstance(value, _Enclosed)]:
                _enclose(callback, name, state.pop(name))
        if hasattr(callback, "__setstate__"):
            callback.__setstate__(state)
        else:
            vars(callback).update(state or {})
    return None if stopped_by is None else str(stopped_by)


def _enclose(callback: keras.callbacks.Callback, name: str, enclosed: _Enclosed) -> None:
    function = vars(callback).get(name)
    cells = getattr(function, "__closure__", None) or ()
    if not isinstance(function, types.FunctionType) or len(cells) != len(enclosed.contents):
        raise Unsaved(f"{type(callback).__name__}: its function {name} was made in training, and a resume cannot")
    for cell, value in zip(cells, enclosed.contents, strict=True):
        cell.cell_contents = value


def _state(callback: keras.callbacks.Callback) -> Any:
    state = callback.__getstate__()
    if not isinstance(state, dict):
        return state
    return {
        name: _Enclosed(tuple(cell.cell_contents for cell in value.__closure__ or ()))
        if isinstance(value, types.FunctionType) and "<" in value.__qualname__  # <lambda>, or <locals> of a function
        else value
        for name, value in state.items()
        if name not in _OF_KERAS
    }


def _shared(callbacks: Sequence[keras.callbacks.Callback], model: Compiled) -> list[Any]:
    """Return what is saved as a reference, in an order that is the same for the same callbacks and model."""
    network, optimizer = model.network, model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    layers = [network, *private.layers(network)]
    return [*layers, optimizer, inner, *network.variables, *optimizer.variables, *callbacks]


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._places = {id(thing): place for place, thing in enumerate(shared)}

    def persistent_id(self, thing: Any) -> int | None:
        return self._places.get(id(thing))


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, place: Any) -> Any:
        return self._shared[place]
