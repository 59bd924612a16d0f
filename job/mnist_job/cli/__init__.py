"""The command line: the table of commands, the parser, and what each command prints. No decision is taken here.

Nothing imports this room. Start with `main.py`; `parser.py` makes the flags from the declarations in `config`, and
`kubernetes.py` holds the commands that talk to a cluster.
"""
