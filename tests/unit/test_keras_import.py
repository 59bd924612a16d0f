import subprocess
import sys

PROGRAM = """
import importlib.util, sys
from mnist_job.system.environment import without_needless
with without_needless():
    import keras
assert not {"matplotlib", "matplotlib.pyplot", "sklearn"} & set(sys.modules), sorted(sys.modules)
assert importlib.util.find_spec("sklearn") is not None
import matplotlib.pyplot, sklearn
with without_needless():
    import sklearn.base
"""


def test_keras_does_without_plots_and_wrappers_and_they_are_there_afterwards():
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True)
