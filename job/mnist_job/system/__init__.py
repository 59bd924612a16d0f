"""What the program asks of the operating system: variables, processes, priorities, temporary folders.

All rooms above may import this one, and it knows nothing of training. Start with `environment.py` for what a run takes
from its surroundings, and `fork.py` for a child that may die of anything.
"""
