"""The settings: the declaration of each one, and the sources of their values.

All packages except `storage` and `system` may import this one. Read `settings.py` first. `sources.py` reads flags,
environment variables and YAML.
"""
