"""The settings: the declaration of each one, and the sources of their values.

All packages except `storage` and `system` may import this one. Read `settings.py` first, and `parts.py` and
`training.py` for what each part of the program is given. `sources.py` reads flags, environment variables and YAML.
"""
