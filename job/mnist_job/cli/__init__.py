"""The command line: the table of commands and the parser. The commands themselves are in other packages.

No other package imports this one. Read `main.py` first. `parser.py` makes the flags from the declarations in `config`,
and `kubernetes.py` has the entries of the commands for Kubernetes.
"""
