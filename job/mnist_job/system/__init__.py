"""The operating system: environment variables, processes, priorities, temporary folders.

All packages may import this one. It contains nothing about training. Read `environment.py` first for the variables that
a run depends on, and `fork.py` for child processes.
"""
