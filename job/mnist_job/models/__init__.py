"""The models: the reference network, those of users, and saved ones, which may be damaged or malicious.

`training` builds networks, and `evaluation` loads saved models. Read `source.py` first; `code.py` has the user's files,
and `saved_model.py` loads a model.
"""
