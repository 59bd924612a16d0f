"""`mnist-job submit`: the chart, installed by Helm's own library for one who has no Helm.

A job that was submitted is a Helm release like any other: `helm list`, `helm upgrade` and `helm uninstall` know it, and
`submit` takes over one that `helm install` has made.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml

from mnist_job.config.settings import JobConfig
from mnist_job.errors import ClusterError, JobError, UsageError
from mnist_job.kubernetes import helm
from mnist_job.kubernetes.kubeconfig import line
from mnist_job.kubernetes.refusals import missing_right

# How the settings of `run` reach the chart: these by other values, these not at all; the others under `settings`.
ELSEWHERE = frozenset({"name", "output", "workers", "use_gpu", "pushgateway_url", "exporter_port"})
MEANINGLESS = frozenset({"address", "metrics_textfile", "kubernetes_result", "kubernetes_rayjob"})
_CLEARING = re.compile(
    "an error occurred while cleaning up resources. original upgrade error: (?P<cause>.*): "
    "unable to cleanup resources: (?P<clearing>.*)"
)


class Request(NamedTuple):
    """What is asked for beside the settings; each as on the command line."""

    image: str | None = None
    gpus: str | None = None
    values: str | None = None
    force: bool = False


def chart() -> Path:
    """The chart: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parents[1] / "chart"
    return installed if installed.exists() else Path(__file__).parents[3] / "charts/mnist-job"


def values(config: JobConfig, request: Request) -> dict[str, Any]:
    """The chart's values: the file's, and over them what was set elsewhere. Raises UsageError, a line a fault."""
    faults: list[str] = []
    found = _read(request.values) if request.values else {}
    written = config.model_dump(mode="json", include=config.model_fields_set)
    set_ = {name: value for name, value in written.items() if value is not None}
    faults += [
        f"{name}: means nothing to `submit`, as the chart decides it; leave it out"
        for name in sorted(MEANINGLESS & set_.keys())
    ]
    over: dict[str, Any] = {
        "settings": {name: value for name, value in set_.items() if name not in ELSEWHERE | MEANINGLESS}
    }
    if request.image:
        over["image"] = _image(request.image)
    if workers := _workers(config, request, faults):
        over["workerGroups"] = {"default": workers}
        if set(found.get("workerGroups") or ()) - {"default"}:
            faults.append(
                f"--values {request.values}: has worker groups of its own; set replicas and gpus of each there"
            )
    if config.output != JobConfig().output:
        if "://" not in config.output:
            faults.append(f"--output {config.output}: pods share no folder of this name; give a URI, or leave it out")
        over["storage"] = {"uri": config.output}
    metrics = {"port": config.exporter_port} if config.exporter_port else {}
    if metrics or config.pushgateway_url:
        over["metrics"] = metrics | ({"pushgateway": {"url": config.pushgateway_url}} if config.pushgateway_url else {})
    if request.force:
        over["rerun"] = datetime.now(UTC).isoformat(timespec="seconds")
    if found.get("mode", "job") != "job":
        faults.append(
            f"--values {request.values}: mode: {found['mode']} has no job to submit; take `helm install` for it"
        )
    if faults:
        raise UsageError("\n".join(faults))
    return _merged(found, over)


def render(name: str, namespace: str, values: dict[str, Any]) -> str:
    """What `helm template` gives: YAML documents. Raises UsageError with the chart's own sentences, a line a fault."""
    engine = library()
    try:
        engine.validate_release_name(name)
    except engine.HelmError as error:
        raise UsageError(f"--name {name}: {' '.join(str(error).split())}") from error
    try:
        with engine.Chart.load(chart()) as loaded:
            rendered = loaded.render(values, name=name, namespace=namespace)
    except engine.HelmError as error:
        raise UsageError(_sentences(error)) from error
    texts = [text.strip() for path, text in sorted(rendered.items()) if path.endswith(".yaml")]
    return "".join(f"---\n{text.removeprefix('---').strip()}\n" for text in texts if text)


def install(name: str, namespace: str, values: dict[str, Any], context: str | None) -> None:
    """What `helm upgrade --install` does. Raises UsageError and ClusterError."""
    library()
    if failure := _failure(helm.install(name, namespace, context, chart(), values), name, namespace):
        raise failure


def uninstall(name: str, namespace: str, context: str | None) -> bool:
    """What `helm uninstall` does. Gives whether there was such a release. Raises UsageError and ClusterError."""
    library()
    answer = helm.uninstall(name, namespace, context, chart())
    if failure := _failure(answer, name, namespace):
        raise failure
    return not answer.absent


def library() -> ModuleType:
    """Helm's library, which nothing else of this program needs. Raises UsageError where it is not installed."""
    try:
        import helm_python
    except ImportError as missing:
        raise UsageError(
            "this needs Helm's library, which is not installed: pip install 'mnist-job[submit]' (or install the chart "
            "by `helm install`)"
        ) from missing
    return helm_python


def _workers(config: JobConfig, request: Request, faults: list[str]) -> dict[str, int | None]:
    """Pods of the chart's own group, and the GPUs of each. None takes away what the values file says."""
    gpus = request.gpus or ("1" if config.use_gpu else "0")
    if not re.fullmatch(r"\d{1,3}", gpus):
        faults.append(f"--gpus {gpus}: is no number of GPUs of each worker pod")
        return {}
    each, least, most = max(1, int(gpus)), config.least_workers, config.most_workers
    if least % each or most % each:
        faults.append(f"--workers {config.workers}: --gpus {gpus} runs {gpus} of them in a pod each; give a multiple")
    group: dict[str, int | None] = {"gpus": int(gpus)} if int(gpus) else {}
    if not group and "workers" not in config.model_fields_set:
        return group
    if least == most:
        return group | {"replicas": most // each, "minReplicas": None, "maxReplicas": None}
    return group | {"minReplicas": least // each, "maxReplicas": most // each}


def _image(image: str) -> dict[str, str]:
    if "@" in image:
        repository, _, digest = image.partition("@")
        return {"repository": repository, "digest": digest}
    match = re.fullmatch(r"(.+?)(?::([^:/]+))?", image)
    assert match is not None
    return {"repository": match[1], "digest": ""} | ({"tag": match[2]} if match[2] else {})


def _read(file: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--values {file}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"--values {file}: holds {type(content).__name__}, not the chart's values as `name: value`")
    return content


def _merged(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values over values, as Helm merges them."""
    both = dict(below)
    for key, value in over.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def _sentences(error: Exception) -> str:
    """The faults that the chart's rules or its schema have found, a line each."""
    lines = [line.strip() for line in str(error).splitlines()]
    faults = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    of_schema = "the chart's values: "
    told = [f"{of_schema}{fault}" if fault.startswith("at '") else fault for fault in faults]
    return "\n".join(told) or of_schema + " ".join(filter(None, lines))


def _failure(answer: helm.Answer, name: str, namespace: str) -> JobError | None:
    """Why it was not done; what failed after that is a note of it."""
    place = f"{name} in namespace {namespace}"
    if answer.foreign:
        return ClusterError(f"{place} is a release of another chart, {answer.foreign}; take another name")
    if answer.error is None:
        return None
    text, clearing = line(answer.error), line(answer.clearing or "")
    if both := _CLEARING.fullmatch(text):
        text, clearing = both["cause"], both["clearing"]
    failure = ClusterError(_told(text, place, namespace))
    if clearing:
        failure.add_note(
            f"some of what it had created is left, as that cannot be removed: {missing_right(clearing) or clearing}; "
            f"`mnist-job cancel {name} --delete` removes all of it"
        )
    return failure


def _told(text: str, place: str, namespace: str) -> str:
    if right := missing_right(text):
        return f"{place}: {right}"
    if f'namespaces "{namespace}" not found' in text:
        return f"there is no namespace {namespace}; make it: kubectl create namespace {namespace}"
    if "another operation" in text:
        return (
            f"{place}: a former submit or Helm command has not come to its end; wait for it, or "
            f"`mnist-job cancel {place.partition(' ')[0]} --delete` and submit again"
        )
    if changed := re.search(r'with "(?P<who>[^"]+)"[^:]*: (?:- )?(?P<fields>\S+)', text):
        return (
            f"{place}: {changed['who']} has set {changed['fields']} to something else since; have these values by: "
            "helm upgrade --force-conflicts"
        )
    return f"{place}: {text}"
