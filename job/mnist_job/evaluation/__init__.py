"""Evaluate a saved model on held-out data, in a process that did not train it.

`pipeline`, `results` and `report` import this package. Read `task.py` first. `measures.py` computes loss, accuracy and
recall, and selects images that the model classifies wrongly.
"""
