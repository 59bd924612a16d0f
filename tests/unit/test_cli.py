"""Test the command line: help, completion in real shells, JSON for scripts and log collectors, colours in terminals."""

import json
import os
import pty
import re
import shlex
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from mnist_job.cli import main
from mnist_job.config import sources
from mnist_job.config.setting import declared
from mnist_job.config.settings import EvaluateConfig, JobConfig
from mnist_job.config.training import DATA_SETS
from mnist_job.kubernetes.submit import MEANINGLESS
from mnist_job.log import Log
from mnist_job.phases import PHASES
from mnist_job.pipeline.display import Display, counted
from mnist_job.training.progress import Epoch, Progress, Restart, Start
from tests.conftest import PROGRAM, job, tool

COMMANDS = ("run", "evaluate", "prepare", "config", "submit", "status", "logs", "cancel", "list", "completion")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


def printed_help(capsys, monkeypatch, *command: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main.main([*command, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out.splitlines()


# --- help -------------------------------------------------------------------------------------------------------------


def test_the_help_has_a_line_for_each_command_and_examples(capsys, monkeypatch):
    lines = printed_help(capsys, monkeypatch)
    start = lines.index("commands:") + 1
    assert [line.split()[0] for line in lines[start : start + len(COMMANDS)]] == list(COMMANDS)
    assert max(map(len, lines)) <= 80
    assert sum("  mnist-job " in line for line in lines) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_fits_80_columns_and_ends_with_examples(capsys, monkeypatch, command):
    lines = printed_help(capsys, monkeypatch, command)
    assert max(map(len, lines)) <= 80
    examples = lines[lines.index("examples:") + 1 :]
    assert all(f"mnist-job {command}" in line or "mnist-job run" in line for line in examples if line)


@pytest.mark.parametrize(
    ("command", "settings"), [("run", JobConfig), ("evaluate", EvaluateConfig), ("submit", JobConfig)]
)
def test_each_setting_stands_in_its_group_with_its_default_in_two_lines(capsys, monkeypatch, command, settings):
    text = "\n".join(printed_help(capsys, monkeypatch, command))
    left_out = MEANINGLESS | {"use_gpu"} if command == "submit" else set()
    for name, field in settings.model_fields.items():
        flag = sources.flag(name).replace("--", "--[no-]") if field.annotation is bool else sources.flag(name)
        if name in left_out:
            assert f"\n  {flag} " not in text
            continue
        group = text.split(f"\n\n{declared(field, 'group')}:\n")[1].split("\n\n")[0]
        described = re.search(rf"^  {re.escape(flag)}( \S+)?((?:\s+)\S.*(?:\n {{30}}.*)*)", group, re.M)
        assert described, flag
        assert len(described[2].strip().splitlines()) <= 2, described[0]
        default = declared(field, "in_effect") or field.get_default()
        has_default = not (field.is_required() or default is None or default is False or default in ({}, ()))
        assert ("[default:" in described[2]) == (has_default or name == "address"), described[0]


# --- a wrong command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--epoch", "3"], ["--epoch"]),
        (["--epoch=3", "stray"], ["--epoch=3", "stray"]),
        (["--epoch", "3", "stray"], ["--epoch", "stray"]),
        (["stray", "--epoch", "-1"], ["stray", "--epoch", "-1"]),
    ],
)
def test_the_value_of_an_unknown_flag_is_no_fault_of_its_own(capsys, arguments, names):
    assert main.main(["run", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("mnist-job: ").partition(": ")[0] for line in lines] == names


# --- JSON for scripts -------------------------------------------------------------------------------------------------


def test_the_configuration_as_json_is_the_one_as_yaml_and_reads_back(tmp_path, capsys):
    assert main.main(["config", "--epochs", "3", "-o", "json"]) == 0
    as_json = capsys.readouterr().out
    assert main.main(["config", "--epochs", "3"]) == 0
    assert json.loads(as_json) == yaml.safe_load(capsys.readouterr().out)
    (tmp_path / "job.json").write_text(as_json)
    assert sources.load(JobConfig, {}, {}, str(tmp_path / "job.json")).epochs == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--epochs", "none"],
        ["run", "--epoch", "3"],
        ["run", "--epochs"],
        ["run", "--config", "none.yaml"],
        ["evaluate"],
        ["config", "--seed", "-1"],
        ["submit", "--epoch", "3"],
        ["submit", "--gpus", "two"],
        ["list", "stray"],
        ["no-such-command"],
    ],
)
def test_a_script_that_asked_for_json_gets_it_for_every_fault(capsys, arguments):
    assert main.main([*arguments, "-o", "json"]) == 2
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document == {"exit_code": 2, "reason": printed.err.removeprefix("mnist-job: ").rstrip("\n")}


@pytest.mark.parametrize(
    "arguments", [("config",), ("run", "--help"), ("completion", "bash"), ("--help",), ("--version",)]
)
def test_a_reader_that_has_gone_is_no_failure(arguments):
    """The reader has closed the pipe, as in `mnist-job config | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # the interpreter flushes the rest of the output at its end
    ended = subprocess.run([PROGRAM, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


# --- lines as JSON ----------------------------------------------------------------------------------------------------


def objects(text: str) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines()]
    for each in found:
        assert datetime.fromisoformat(each.pop("time")).utcoffset() is not None
    return found


def test_each_line_becomes_an_object_with_fields(capsys):
    log = Log(json_lines=True)
    display = Display(log)
    with display.stage("training", 2) as stage:
        stage.entry(Start(2, ["epoch-1"], "node", {}))
        stage.entry(Progress(1, 5, 10, 2.5, 1000.0, 60.0))  # not a line in a log
        stage.entry(Epoch(1, 2.0, float("nan"), 0.5, 0.001, 1.5))
        stage.entry(Restart("worker 1 was lost"))
    display.phases({"data": 1.0})
    log.failure("it failed", exit_code=5)
    printed = capsys.readouterr()
    assert objects(printed.out) == [
        {"level": "info", "message": "training"},
        {"level": "warning", "message": "a damaged checkpoint was skipped: epoch-1", "checkpoint": "epoch-1"},
        {"level": "info", "message": "2 workers have started", "workers": 2},
        {
            "level": "info",
            "message": "epoch 1/2  loss 2.0000  validation loss nan  validation accuracy 0.5000  1.5 s",
            "epoch": 1,
            "train_loss": 2.0,
            "train_accuracy": None,
            "validation_loss": None,
            "validation_accuracy": 0.5,
            "learning_rate": 0.001,
            "seconds": 1.5,
        },
        {
            "level": "warning",
            "message": "all workers restart from the last checkpoint: worker 1 was lost",
            "reason": "worker 1 was lost",
        },
        {"level": "info", "message": f"data             1.00 s  {PHASES['data']}", "phase": "data", "seconds": 1.0},
    ]
    assert objects(printed.err) == [{"level": "error", "message": "it failed", "exit_code": 5}]


@pytest.mark.parametrize(
    ("workers", "place", "started"),
    [
        (1, (1, 0), "1 worker has started"),
        (2, (3, 0), "2 workers have started, at epoch 3"),
        (2, (1, 120), "2 workers have started, at epoch 1, step 121"),
    ],
)
def test_so_many_workers_have_started(capsys, workers, place, started):
    with Display(Log()).stage("training") as stage:
        stage.entry(Start(workers, [], "node", {}, *place))
    assert capsys.readouterr().out.splitlines() == ["training", started]


@pytest.mark.parametrize(
    ("given", "text"), [("1", "1 worker"), ("1:1", "1 worker"), ("2", "2 workers"), ("1:2", "1:2 workers")]
)
def test_one_worker_is_told_as_one(given, text):
    assert counted(JobConfig(workers=given).workers) == text


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
@pytest.mark.parametrize("fault", [["--seed", "-1"], ["--sed", "1"]])
def test_a_refusal_is_an_object_wherever_the_format_was_set(tmp_path, capsys, monkeypatch, source, fault):
    arguments = ["config", *fault]
    match source:
        case "flag":
            arguments += ["--log-format", "json"]
        case "variable":
            monkeypatch.setenv("MNIST_JOB_LOG_FORMAT", "json")
        case "file":
            (tmp_path / "job.yaml").write_text("log_format: json\n")
            arguments += ["--config", str(tmp_path / "job.yaml")]
    assert main.main(arguments) == 2
    (refusal,) = objects(capsys.readouterr().err)
    assert (refusal["level"], refusal["exit_code"]) == ("error", 2)
    assert refusal["message"].startswith(fault[0])


# --- colours ----------------------------------------------------------------------------------------------------------


def in_a_terminal(command: str, cwd: Path, typed: str = "", **environment: str) -> str:
    """Return what a terminal shows of a command; `typed` are the keys that are pressed."""
    shown = subprocess.run(
        [tool("script"), "-qec", command, "/dev/null"],
        cwd=cwd,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"} | environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return shown.stdout


def test_an_error_is_red_in_a_terminal_and_only_there(tmp_path):
    wrong = f"{PROGRAM} config --epochs none"
    assert COLOUR.search(in_a_terminal(wrong, tmp_path))
    assert not COLOUR.search(in_a_terminal(wrong, tmp_path, NO_COLOR="1"))
    assert not COLOUR.search(in_a_terminal(wrong, tmp_path, TERM="dumb"))
    assert not COLOUR.search(in_a_terminal(f"{wrong} --log-format json", tmp_path))
    assert not COLOUR.search(job("config", "--epochs", "none", cwd=tmp_path).stderr)


@pytest.mark.parametrize(
    ("environment", "json_lines", "live"),
    [
        ({"TERM": "xterm"}, False, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, True),
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_a_bar_is_drawn_in_a_terminal_that_can(monkeypatch, environment, json_lines, live):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs, "w") as terminal:
        assert Log(terminal, json_lines=json_lines).is_live == live


def test_a_pipe_gets_no_bar_even_where_colours_are_forced(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not Log().is_live


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "tcsh"):
        text = job("completion", shell, cwd=folder).stdout
        (folder / ("_mnist-job" if shell == "zsh" else shell)).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["r"], ["run"]),
        (["run", "--lear"], ["--learning-rate", "--learning-rate-schedule"]),
        (["run", "--learning-rate-schedule", ""], ["cosine", "constant"]),
        (["run", "--no-v"], ["--no-verbose"]),
        (["run", "--data", "im"], ["images", "images.npz"]),
        (["run", "--data", "d"], ["digits"]),
        (["evaluate", "--data", ""], [*DATA_SETS, "images", "images.npz", "job.yaml"]),
        (["run", "--config", "jo"], ["job.yaml"]),
        (["run", "--output", "im"], ["images"]),
        (["evaluate", "--mo"], ["--model"]),
        (["config", "-o", ""], ["yaml", "json"]),
        (["su"], ["submit"]),
        (["submit", "--values", "jo"], ["job.yaml"]),
        (["status", "--w"], ["--watch"]),
        (["completion", ""], ["bash", "zsh", "tcsh"]),
    ],
)
def test_bash_completes(tmp_path, scripts, words, expected):
    (tmp_path / "images").mkdir()
    (tmp_path / "images.npz").touch()
    (tmp_path / "job.yaml").touch()
    script = f"""
        source {scripts}/bash
        COMP_WORDS=(mnist-job {shlex.join(words)}); COMP_CWORD={len(words)}
        $(complete -p mnist-job | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    answer = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(answer.stdout.split()) == sorted(expected)
    assert answer.stderr == ""


SHELLS = {
    "bash": ("bash --rcfile .bashrc -i", ".bashrc", "source {}/bash"),
    "zsh": ("zsh -i", ".zshrc", "fpath=({} $fpath); autoload -Uz compinit; compinit -u -D"),
    "tcsh": ("tcsh", ".tcshrc", "source {}/tcsh"),
}


@pytest.mark.parametrize(
    ("shell", "keys", "completed"),
    [
        *((shell, "--learning-rate-sch\tcos\t", "--learning-rate-schedule cosine") for shell in SHELLS),
        *((shell, "--data im\t", "--data images.npz") for shell in SHELLS),
        *((shell, "--data di\t", "--data digits") for shell in ("bash", "zsh")),
        *((shell, "--data mn\t", "--data mnist") for shell in ("bash", "zsh")),
    ],
)
def test_a_shell_completes_as_one_types(tmp_path, scripts, shell, keys, completed):
    command, file, setup = SHELLS[shell]
    (tmp_path / file).write_text(setup.format(scripts) + "\n")
    (tmp_path / "images.npz").touch()
    pressed = f"mnist-job run {keys}\x01echo typed: \nexit\n"
    shown = in_a_terminal(f"{tool(shell)}{command.removeprefix(shell)}", tmp_path, pressed, HOME=str(tmp_path))
    assert re.search(rf"^typed: mnist-job run {completed}\s*$", shown, re.M), shown


def test_every_flag_of_a_place_completes_files(scripts):
    text = (scripts / "bash").read_text()
    for settings, command in ((JobConfig, "run"), (EvaluateConfig, "evaluate")):
        for name, field in settings.model_fields.items():
            variable = f"_shtab_mnist_job_{command}_{re.sub(r'[^a-z]', '_', sources.flag(name))}_COMPGEN"
            assert (variable in text) == (declared(field, "place") is not None)
    assert "_shtab_mnist_job_run___config_COMPGEN" in text
