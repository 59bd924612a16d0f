"""What a run uses of Ray beyond its public interface: each part says what it gains.

Nothing else in this package imports a private module of Ray. A part that the installed Ray does not have, or has in
another form, is left out: the run is slower, or says less, and works by the public interface alone. `local_ray.py` is
about the start of a local Ray, `controller.py` about Ray Train. (All figures: Ray 2.60, two cores.)
"""
