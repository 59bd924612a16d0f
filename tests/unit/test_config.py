"""Test settings: precedence, refusals that name what the user wrote, and YAML that can be read back."""

import pytest
import yaml

from mnist_job.cli import main
from mnist_job.config import sources
from mnist_job.config.settings import FORMER_DEFAULTS, EvaluateConfig, JobConfig
from mnist_job.errors import UsageError


def load(flags=None, environment=None, file=None, settings=JobConfig):
    return sources.load(settings, flags or {}, environment or {}, file and str(file))


def faults(*arguments, **keywords) -> list[str]:
    with pytest.raises(UsageError) as refusal:
        load(*arguments, **keywords)
    return str(refusal.value).splitlines()


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("epochs: 2\nbatch_size: 2\nseed: 2\n")
    config = load({"epochs": "4"}, {"MNIST_JOB_EPOCHS": "3", "MNIST_JOB_BATCH_SIZE": "3"}, file)
    assert (config.epochs, config.batch_size, config.seed, config.workers) == (4, 3, 2, 2)


def test_every_fault_is_reported_by_the_name_its_user_wrote(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("learning_rate: fast\nepoch: 3\n")
    lines = faults({"workers": "0"}, {"MNIST_JOB_SEED": "-1", "MNIST_JOB_SEEDS": "1"}, file)
    assert [line.partition(": ")[0] for line in lines[:2]] == [str(file), "MNIST_JOB_SEEDS"]
    assert {line.partition(": ")[0] for line in lines[2:]} == {"MNIST_JOB_SEED", "--workers", str(file)}
    assert "epoch: no such setting; did you mean epochs?" in lines[0]
    assert "did you mean MNIST_JOB_SEED?" in lines[1]
    assert any("learning_rate: fast" in line for line in lines[2:])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "0"),
        ("workers", "0"),
        ("batch_size", "0"),
        ("batch_size", "1"),  # less than one image for each of the two workers
        ("learning_rate", "0"),
        ("learning_rate", "nan"),
        ("learning_rate_schedule", "linear"),
        ("precision", "float64"),
        ("batch_norm", "off"),
        ("on_nan", "restart"),
        ("hidden_layers", "128,0"),
        ("hidden_layers", "wide"),
        ("validation_fraction", "0"),
        ("validation_fraction", "1"),
        ("seed", "4294967296"),
        ("patience", "0"),
        ("keep", "first"),
        ("min_accuracy", "1.01"),
        ("cpus_per_worker", "0"),
        ("max_failures", "-1"),
        ("start_timeout", "0"),
        ("worker_timeout", "inf"),
        ("name", "Upper"),
        ("name", "../up"),
        ("name", "x" * 64),
        ("output", ""),
        ("pushgateway_url", "gateway:9091"),
        ("pushgateway_url", "http://user:secret@gateway"),
        ("delivery_timeout", "0"),
        ("metrics_textfile", "job.txt"),
        ("use_gpu", "perhaps"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_flag(field, value):
    (line,) = faults({field: value})
    assert line.startswith(f"{sources.flag(field)}: {value}: ")


@pytest.mark.parametrize("content", ["- a list", "{", "\x00", "3"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content):
    file = tmp_path / "job.yaml"
    file.write_text(content)
    (line,) = faults(file=file)
    assert line.startswith(f"{file}: ")


def test_a_missing_file_is_refused(tmp_path):
    (line,) = faults(file=tmp_path / "none.yaml")
    assert "No such file" in line


def test_variables_that_kubernetes_sets_for_a_service_are_no_settings():
    links = {
        "MNIST_JOB_PUSHGATEWAY_SERVICE_HOST": "10.0.0.1",
        "MNIST_JOB_PUSHGATEWAY_SERVICE_PORT_HTTP": "9091",
        "MNIST_JOB_PUSHGATEWAY_PORT": "tcp://10.0.0.1:9091",
        "MNIST_JOB_PUSHGATEWAY_PORT_9091_TCP_ADDR": "10.0.0.1",
    }
    assert load(environment=links) == JobConfig()


def test_a_setting_of_the_other_command_may_stand_in_a_shared_file(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("epochs: 3\nmodel: m.keras\ndata: digits\n")
    assert load(file=file).epochs == 3
    assert load(file=file, settings=EvaluateConfig).model == "m.keras"


def test_evaluate_needs_a_model():
    assert faults(settings=EvaluateConfig) == ["--model: is required"]


def test_the_printed_configuration_reads_back(tmp_path, capsys):
    assert main.main(["config", "--epochs", "3", "--hidden-layers", "7,5", "--min-accuracy", "0.5"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "job.yaml"
    file.write_text(printed)
    assert load(file=file) == JobConfig(epochs=3, hidden_layers=(7, 5), min_accuracy=0.5)
    assert sorted(yaml.safe_load(printed)) == sorted(JobConfig.model_fields)


def test_the_hash_changes_with_what_can_change_the_model_and_with_nothing_else():
    base = JobConfig().config_hash()
    assert JobConfig(seed=1).config_hash() != base
    assert JobConfig(hidden_layers=(1,)).config_hash() != base
    assert JobConfig(name="other", output="/tmp", verbose=True, min_accuracy=1, max_failures=0).config_hash() == base


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["run", "--epoch", "3"], "--epoch: no such argument; did you mean --epochs?"),
        (["run", "extra"], "extra: no such argument"),
        (["run", "--epochs"], "expected one argument"),
        (["train"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(capsys, arguments, name):
    assert main.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(name in line for line in lines)
    assert all(line.startswith("mnist-job: ") for line in lines)


# The settings that all versions had. An old record has their values.
ALWAYS = {"batch_size", "data", "epochs", "hidden_layers", "learning_rate", "learning_rate_schedule", "seed", "use_gpu"}
ALWAYS |= {"validation_fraction", "workers"}


def test_a_run_of_a_version_without_a_setting_had_its_default():
    """Only the default split has changed since. Without this, such a run could not be resumed."""
    now = JobConfig().affecting_result()
    assert now.keys() - FORMER_DEFAULTS.keys() == ALWAYS
    changed = {name for name, value in FORMER_DEFAULTS.items() if now[name] != value}
    assert changed == {"validation_split"}
