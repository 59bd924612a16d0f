"""The training loop and what it is made of. TensorFlow is imported here, by the workers alone.

`distributed` imports this room for the workers, others only what is told of their progress and where checkpoints are.
Start with `loop.py`, which a newcomer reads in one sitting.
"""
