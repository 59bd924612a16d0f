"""The entries of the commands for Kubernetes in the table of commands."""

import argparse
import os

from mnist_job.cli import parser
from mnist_job.cli.parser import Command
from mnist_job.config import sources
from mnist_job.config.settings import JobConfig
from mnist_job.kubernetes import commands
from mnist_job.kubernetes.submit import MEANINGLESS

_RESULT = "lines, or the result as one JSON document and all lines on standard error"


def _submit_options(command: argparse.ArgumentParser) -> None:
    _add_place(command)
    parser.add_config(command)
    command.add_argument("--image", metavar="IMAGE", help="image of all pods, as REPOSITORY[:TAG]")
    command.add_argument("--gpus", metavar="N", help="GPUs of each worker pod; each GPU is for one of --workers")
    parser.add_file(command, "--values", "YAML file of more values of the chart, as for `helm install`")
    command.add_argument(
        "--wait", action="store_true", help="wait until the job has ended, and exit with its exit code"
    )
    command.add_argument("--force", action="store_true", help="run again, even if the settings are the same")
    command.add_argument("--dry-run", action="store_true", help="print what would be created, without asking a cluster")
    parser.add_format(command, "text", f"{_RESULT}; with --dry-run, YAML or JSON")


def _status_options(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    command.add_argument("-w", "--watch", action="store_true", help="also show each change, until the job has ended")
    parser.add_format(command, "text", "lines, or one JSON document; with --watch, one line of JSON for each change")


def _logs_options(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    command.add_argument("-f", "--follow", action="store_true", help="also show new lines, until the job has ended")


def _cancel_options(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    help = "uninstall the job with its checkpoints and its volume (unless the values say to keep the volume)"
    command.add_argument("--delete", action="store_true", help=help)
    parser.add_format(command, "text", _RESULT)


def _list_options(command: argparse.ArgumentParser) -> None:
    _add_place(command)
    command.add_argument("-A", "--all-namespaces", action="store_true", help="list the jobs of all namespaces")
    parser.add_format(command, "text", "lines, or one JSON document")


def _add_job(command: argparse.ArgumentParser) -> None:
    default = JobConfig.model_fields["name"].default
    command.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        default=os.environ.get(sources.variable("name"), default),
        help=f"the job's name [default: ${sources.variable('name')}; else {default}]",
    )
    _add_place(command)


def _add_place(command: argparse.ArgumentParser) -> None:
    command.add_argument("-n", "--namespace", metavar="NAME", help="namespace [default: the context's]")
    command.add_argument("--context", metavar="NAME", help="context of the kubeconfig [default: its current one]")


COMMANDS = {
    "submit": Command(
        "start the job on Kubernetes, as a KubeRay RayJob",
        JobConfig,
        commands.submit_job,
        _submit_options,
        """\
  mnist-job submit --image REGISTRY/mnist-job:0.1.0 --wait
  mnist-job submit --image REGISTRY/mnist-job:0.1.0 --workers 4 --epochs 20
  mnist-job submit --values values.yaml --dry-run
""",
        left_out=MEANINGLESS | {"use_gpu"},
    ),
    "status": Command(
        "show the state of a job on Kubernetes, and its result",
        None,
        commands.show_status,
        _status_options,
        """\
  mnist-job status --watch
  mnist-job status nightly --namespace team
  mnist-job status nightly -o json | jq .phase
""",
    ),
    "logs": Command(
        "show what the pods of a job on Kubernetes write",
        None,
        commands.show_logs,
        _logs_options,
        """\
  mnist-job logs --follow
  mnist-job logs nightly --namespace team
""",
    ),
    "cancel": Command(
        "stop a job on Kubernetes, so that `submit` can resume it",
        None,
        commands.cancel_job,
        _cancel_options,
        """\
  mnist-job cancel nightly
  mnist-job cancel nightly --delete
""",
    ),
    "list": Command(
        "list the jobs on Kubernetes",
        None,
        commands.list_jobs,
        _list_options,
        """\
  mnist-job list
  mnist-job list --all-namespaces -o json | jq -r '.[].name'
""",
    ),
}
