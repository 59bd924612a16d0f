"""How good a saved model is on held-out data, found by a process that did not train it.

`pipeline` and the rooms of results import this one. Start with `task.py`; `measures.py` counts, batch by batch, and
`mistakes.py` keeps the images that the model gets wrong.
"""
