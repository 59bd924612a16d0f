"""`report.html`, a run on one page for a person: a function of its outcome.

Only `pipeline` imports this room. Start with `page.py`; `plots.py` draws, `report.html` is the template.
"""
