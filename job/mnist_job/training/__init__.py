"""The training loop and its parts. Only the workers import the modules that need TensorFlow.

`distributed` imports this package to start the loop. Other packages import only `progress.py` and `checkpoint.py`.
Read `loop.py` first: it is the whole loop in one file.
"""
