import subprocess
import sys

PROGRAM = """
import importlib.util, sys
from mnist_job.system.lean import needless_hidden
with needless_hidden():
    import keras
assert not {"matplotlib", "matplotlib.pyplot", "sklearn"} & set(sys.modules), sorted(sys.modules)
assert importlib.util.find_spec("sklearn") is not None
import matplotlib.pyplot, sklearn
with needless_hidden():
    import sklearn.base
"""


def test_keras_does_without_plots_and_wrappers_and_they_are_there_afterwards():
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True)
