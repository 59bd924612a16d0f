"""All uses of Ray's private interface. Each part says what a run gains from it.

No module outside this folder imports a private module of Ray. If the installed Ray does not have such a part, or has it
in another form, the run uses only the public interface: it is slower, or prints less. `local_ray.py` is about the start
of a local Ray, `controller.py` about Ray Train. (All figures: Ray 2.60, two cores.)
"""
