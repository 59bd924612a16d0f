"""The commands for Kubernetes, which ask neither for YAML nor for Helm: their places in the table of commands."""

import argparse
import os

from mnist_job.cli import parser
from mnist_job.cli.parser import Command
from mnist_job.config import sources
from mnist_job.config.settings import JobConfig
from mnist_job.kubernetes import commands
from mnist_job.kubernetes.submit import MEANINGLESS

_RESULT = "the result: lines, or one JSON document, and all lines on standard error"


def _submit_options(command: argparse.ArgumentParser) -> None:
    _add_place(command)
    parser.add_config(command)
    command.add_argument("--image", metavar="IMAGE", help="REPOSITORY[:TAG] that all pods run")
    command.add_argument("--gpus", metavar="N", help="GPUs of each worker pod, each for one of --workers")
    parser.add_file(command, "--values", "further values of the chart, as for `helm install`")
    command.add_argument("--wait", action="store_true", help="until the job is over; ends with its exit code")
    command.add_argument("--force", action="store_true", help="run anew, even with the same settings")
    command.add_argument("--dry-run", action="store_true", help="print what would be created; ask no cluster")
    parser.add_format(command, "text", f"{_RESULT}; of --dry-run: YAML, or JSON")


def _status_options(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    command.add_argument("-w", "--watch", action="store_true", help="also what changes, until the job is over")
    parser.add_format(command, "text", "lines, or one JSON document; by --watch a line of JSON at each change")


def _logs_options(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    command.add_argument("-f", "--follow", action="store_true", help="also what comes, until the job is over")


def _cancel_options(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    help = "uninstall all of it, with its checkpoints and its volume (unless the values say to keep that)"
    command.add_argument("--delete", action="store_true", help=help)
    parser.add_format(command, "text", _RESULT)


def _list_options(command: argparse.ArgumentParser) -> None:
    _add_place(command)
    command.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
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
        "show where a job on Kubernetes is, and its result",
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
        "stop a job on Kubernetes, so that `submit` can go on with it",
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
