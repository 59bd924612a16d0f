"""The settings of the training: the user's code, the model, the data, when training ends, and the loop."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mnist_job.config.setting import Part, setting
from mnist_job.config.texts import class_weights, split_commas, split_pairs

DATA_SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "digits")
"""The data sets that `--data` takes by name."""

ClassNumber = Annotated[int, Field(ge=0, lt=1_000_000)]


class CodeSettings(Part):
    """The user's code."""

    code: str | None = setting(
        None,
        "folder of your modules, which every process of the run gets",
        "training",
        place="folder",
        min_length=1,
    )


class ModelSettings(CodeSettings):
    """The network."""

    model: str | None = setting(
        None,
        "your network: FILE.py:FUNCTION, MODULE:FUNCTION or a .keras file",
        "training",
        affects_result=True,
        place="file",
        min_length=1,
    )
    model_args: Annotated[dict[str, bool | int | float | str | None], BeforeValidator(split_pairs)] = setting(
        {}, "arguments of that function: width=64,depth=3", "training", affects_result=True
    )


class EndSettings(Part):
    """When training ends, which epoch's model is kept, and what is called after each epoch."""

    epochs: int = setting(10, "passes over the training data", "training", affects_result=True, ge=1, le=1_000_000)
    patience: int | None = setting(
        None,
        "end training after so many epochs that were not better than the best one",
        "training",
        affects_result=True,
        ge=1,
        le=1_000_000,
    )
    keep: Literal["last", "best"] = setting(
        "last", "the epoch whose model is evaluated and published", "training", affects_result=True
    )
    monitor: str = setting(
        "validation_loss",
        "column of the history that ranks the epochs: NAME[:min|max]",
        "training",
        affects_result=True,
        min_length=1,
    )
    callbacks: str | None = setting(
        None,
        "your Keras callbacks: FILE.py:FUNCTION or MODULE:FUNCTION that returns a list",
        "training",
        affects_result=True,
        place="file",
        min_length=1,
    )


class DataSettings(CodeSettings):
    """The data set."""

    data: str = setting(
        "mnist",
        "a name, a file or a folder by path or URI, or FILE.py:FUNCTION",
        "data",
        affects_result=True,
        place="data set",
        min_length=1,
    )
    test_fraction: float | None = setting(
        None, "share of the data for the test, if they have no test part", "data", affects_result=True, gt=0, lt=1
    )
    image_size: str | None = setting(
        None,
        "HxW or HxWxC: resize images to it, or take a table's numbers as pixels",
        "data",
        affects_result=True,
        pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}(x[134])?$",
    )
    label: str | None = setting(
        None, "column of a table with the targets", "data", affects_result=True, in_effect="label", min_length=1
    )
    features: Annotated[tuple[str, ...], BeforeValidator(split_commas)] = setting(
        (), "columns of a table with the inputs, if these are not all others", "data", affects_result=True
    )
    data_arrays: Annotated[
        dict[Literal["x_train", "y_train", "x_val", "y_val", "x_test", "y_test"], str], BeforeValidator(split_pairs)
    ] = setting({}, "names of an .npz's arrays: x_train=a,y_train=b", "data", affects_result=True)


class SplitSettings(DataSettings):
    """The validation part, and the seed."""

    # These two are None until the data were read, because a file may have its own validation part.
    validation_fraction: float | None = setting(
        None,
        "share of the training data for validation, unless the file has x_val",
        "data",
        affects_result=True,
        in_effect=0.2,
        gt=0,
        lt=1,
    )
    validation_split: Literal["stratified", "tail"] | None = setting(
        None,
        "`stratified` draws from each class; `tail` takes the end, as Keras does",
        "data",
        affects_result=True,
        in_effect="stratified",
    )
    seed: int = setting(
        0,
        "random seed of the initial weights, the data's split and order",
        "training",
        affects_result=True,
        ge=0,
        lt=2**32,
    )


class TrainingDataSettings(SplitSettings):
    """The training data: the batches, and the weights of classes."""

    class_weight: Annotated[
        Literal["balanced"] | dict[ClassNumber, Annotated[float, Field(ge=0, le=1_000_000)]] | None,
        BeforeValidator(class_weights),
    ] = setting(
        None,
        "weights of the classes in the training loss: `balanced`, 0=1,7=2.5, or a YAML file",
        "training",
        affects_result=True,
        place="file",
    )
    batch_size: int = setting(
        32, "images per optimizer step, over all workers together", "training", affects_result=True, ge=1, le=1_000_000
    )


class LoopSettings(EndSettings, TrainingDataSettings, ModelSettings):
    """The training loop, and what it may use of its worker's node."""

    learning_rate: float = setting(1e-3, "Adam's learning rate", "training", affects_result=True, gt=0, le=100)
    learning_rate_schedule: Literal["cosine", "constant"] = setting(
        "cosine",
        "`cosine` lowers the learning rate to 0 during the run; `constant` keeps it",
        "training",
        affects_result=True,
    )
    hidden_layers: Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], BeforeValidator(split_commas)] = (
        setting(
            (128, 64),
            "units of each hidden layer, separated by commas",
            "training",
            affects_result=True,
            max_length=100,
        )
    )
    precision: Literal["float32", "bfloat16", "float16"] = setting(
        "float32",
        "numbers that layers compute with; weights stay float32",
        "training",
        affects_result=True,
    )
    batch_norm: Literal["synchronized", "per-worker"] = setting(
        "synchronized",
        "BatchNormalization by the whole batch, or by each worker's part",
        "training",
        affects_result=True,
    )
    # It does not affect the result: a run whose losses are finite has the same digits either way.
    on_nan: Literal["stop", "ignore"] = setting(
        "stop", "`stop` ends the run if the loss is not finite; `ignore` trains on", "training"
    )
    checkpoint_minutes: float = setting(
        5, "minutes after which a checkpoint is saved within an epoch", "bounds", gt=0, le=10_000
    )
    use_gpu: bool = setting(False, "train on GPUs, one for each worker", "where it runs", affects_result=True)
    cpus_per_worker: float = setting(
        1, "CPUs that Ray reserves for each worker; TensorFlow uses as many threads", "where it runs", gt=0, le=1024
    )
    worker_timeout: float = setting(
        120, "seconds after which a worker that does not answer counts as lost", "bounds", gt=0, le=86_400
    )

    @property
    def threads_per_worker(self) -> int:
        """The number of threads that TensorFlow may use in a worker: the CPUs of the worker, at least one."""
        return max(1, math.floor(self.cpus_per_worker))
