"""The training loop and its parts. Only the workers import the modules that need TensorFlow.

`distributed` imports this package to start the loop, `pipeline` to try a user's model (`preflight.py`). Other packages
import only `progress.py` and `checkpoint.py`. Read `loop.py` first, the whole loop in one file, and `compiled.py` for
what it takes from a model.
"""
