"""The models: the reference network, those of users, and saved ones, which may be damaged or malicious.

`training` builds networks, and `evaluation` loads saved models. Read `source.py` first, then `saved_model.py`, which
loads a model. `origin.py` has all that a run starts from.
"""
