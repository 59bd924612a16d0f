"""`report.html`: the report of a run on one page, made from its outcome alone.

Only `pipeline` imports this package. Read `page.py` first. `plots.py` draws the plots, `report.html` is the template.
"""
