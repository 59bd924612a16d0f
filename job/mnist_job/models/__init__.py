"""The models: the reference network, and saved models, which may be damaged or malicious.

`training` builds the reference network, and `evaluation` loads saved models. Read `reference.py` first.
"""
