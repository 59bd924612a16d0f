"""The models: the reference network, and saved ones that nobody vouches for.

`training` builds here, `evaluation` loads here. Start with `reference.py`.
"""
