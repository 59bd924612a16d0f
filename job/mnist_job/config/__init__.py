"""Every setting, declared once, and where its value comes from.

All rooms above may import this one. Start with `settings.py`; `sources.py` reads flags, variables and YAML.
"""
