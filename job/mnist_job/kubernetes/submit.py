"""`mnist-job submit`: install the chart with Helm's library, so that the user does not need the `helm` command.

A submitted job is a normal Helm release: `helm list`, `helm upgrade` and `helm uninstall` work with it, and `submit`
can upgrade a release of `helm install`.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml

from mnist_job.config.settings import JobConfig
from mnist_job.config.sources import flag
from mnist_job.errors import ClusterError, JobError, UsageError
from mnist_job.kubernetes import helm
from mnist_job.kubernetes.kubeconfig import line
from mnist_job.kubernetes.refusals import missing_right
from mnist_job.usercode import files as code
from mnist_job.usercode import function

# The settings of `run` become the chart's `settings`, except these: the first set other values of the chart, and the
# second are not used.
ELSEWHERE = frozenset({"name", "output", "code", "workers", "use_gpu", "pushgateway_url", "exporter_port"})
MEANINGLESS = frozenset({"address", "metrics_textfile", "kubernetes_result", "kubernetes_rayjob"})
_CLEARING = re.compile(
    "an error occurred while cleaning up resources. original upgrade error: (?P<cause>.*): "
    "unable to cleanup resources: (?P<clearing>.*)"
)


class Request(NamedTuple):
    """The flags of `submit` that are not settings, with their values from the command line."""

    image: str | None = None
    gpus: str | None = None
    values: str | None = None
    force: bool = False


def chart() -> Path:
    """Return the folder of the chart: in the installed package or, in a checkout, next to it."""
    installed = Path(__file__).parents[1] / "chart"
    return installed if installed.exists() else Path(__file__).parents[3] / "charts/mnist-job"


def values(config: JobConfig, request: Request) -> dict[str, Any]:
    """Return the chart's values: those of the file, overridden by the settings and flags.

    Raises UsageError, with one line for each fault.
    """
    faults: list[str] = []
    found = _read(request.values) if request.values else {}
    written = config.model_dump(mode="json", include=config.model_fields_set)
    set_ = {name: value for name, value in written.items() if value is not None}
    faults += [
        f"{name}: has no effect with `submit`, because the chart sets it; leave it out"
        for name in sorted(MEANINGLESS & set_.keys())
    ]
    over: dict[str, Any] = {
        "settings": {name: value for name, value in set_.items() if name not in ELSEWHERE | MEANINGLESS}
    }
    if config.code or any(map(function.is_function, _functions(config).values())):
        own = code.read(config.code, [])
        for name, text in _functions(config).items():
            if (named := function.read(flag(name), text, config.code)) is not None:
                own |= named.code
                if (file := named.file_in(own)) is not None:
                    over["settings"][name] = f"{file}:{named.name}"
        over["code"] = {name: _text(name, content) for name, content in own.files.items()}
    if request.image:
        over["image"] = _image(request.image)
    if workers := _workers(config, request, faults):
        over["workerGroups"] = {"default": workers}
        if set(found.get("workerGroups") or ()) - {"default"}:
            faults.append(
                f"--values {request.values}: defines other worker groups; set replicas and gpus of each group there"
            )
    if config.output != JobConfig().output:
        if "://" not in config.output:
            faults.append(
                f"--output {config.output}: is a local folder, which pods cannot share; give a URI, or leave it out"
            )
        over["storage"] = {"uri": config.output}
    metrics = {"port": config.exporter_port} if config.exporter_port else {}
    if metrics or config.pushgateway_url:
        over["metrics"] = metrics | ({"pushgateway": {"url": config.pushgateway_url}} if config.pushgateway_url else {})
    if request.force:
        over["rerun"] = datetime.now(UTC).isoformat(timespec="seconds")
    if found.get("mode", "job") != "job":
        faults.append(
            f"--values {request.values}: mode: {found['mode']} has no job to submit; use `helm install` for it"
        )
    if faults:
        raise UsageError("\n".join(faults))
    return _merged(found, over)


def _functions(config: JobConfig) -> dict[str, str | None]:
    """Return the settings whose values may name functions of the user's code."""
    return {"model": config.model, "data": config.data, "callbacks": config.callbacks}


def render(name: str, namespace: str, values: dict[str, Any]) -> str:
    """Return the YAML documents that `helm template` prints.

    Raises UsageError with the chart's own messages, one line for each fault.
    """
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
    """Install or upgrade the release, as `helm upgrade --install` does. Raises UsageError and ClusterError."""
    library()
    if failure := _failure(helm.install(name, namespace, context, chart(), values), name, namespace):
        raise failure


def uninstall(name: str, namespace: str, context: str | None) -> bool:
    """Uninstall the release, as `helm uninstall` does. Return whether it existed. Raises UsageError, ClusterError."""
    library()
    answer = helm.uninstall(name, namespace, context, chart())
    if failure := _failure(answer, name, namespace):
        raise failure
    return not answer.absent


def library() -> ModuleType:
    """Return Helm's library, an optional dependency. Raises UsageError if it is not installed."""
    try:
        import helm_python
    except ImportError as missing:
        raise UsageError(
            "this needs Helm's library, which is not installed: pip install 'mnist-job[submit]' (or install the chart "
            "with `helm install`)"
        ) from missing
    return helm_python


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: is not text, and a ConfigMap takes only that; build an image with it") from error


def _workers(config: JobConfig, request: Request, faults: list[str]) -> dict[str, int | None]:
    """Return the replicas and the GPUs of the chart's default worker group. None removes a value of the values file."""
    gpus = request.gpus or ("1" if config.use_gpu else "0")
    if not re.fullmatch(r"\d{1,3}", gpus):
        faults.append(f"--gpus {gpus}: is not a number of GPUs for each worker pod")
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
    """Merge values as Helm does: those of `over` replace those of `below`."""
    both = dict(below)
    for key, value in over.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def _sentences(error: Exception) -> str:
    """Return the faults that the chart's rules or its schema have found, one on each line."""
    lines = [line.strip() for line in str(error).splitlines()]
    faults = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    of_schema = "the chart's values: "
    told = [f"{of_schema}{fault}" if fault.startswith("at '") else fault for fault in faults]
    return "\n".join(told) or of_schema + " ".join(filter(None, lines))


def _failure(answer: helm.Answer, name: str, namespace: str) -> JobError | None:
    """Return the error of a request, or None. A failure of the clean-up after it is a note of the error."""
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
            "some objects that it created are left, because they cannot be removed: "
            f"{missing_right(clearing) or clearing}; `mnist-job cancel {name} --delete` removes all of them"
        )
    return failure


def _told(text: str, place: str, namespace: str) -> str:
    if right := missing_right(text):
        return f"{place}: {right}"
    if f'namespaces "{namespace}" not found' in text:
        return f"there is no namespace {namespace}; create it: kubectl create namespace {namespace}"
    if "another operation" in text:
        return (
            f"{place}: an earlier submit or Helm command has not finished; wait for it, or "
            f"`mnist-job cancel {place.partition(' ')[0]} --delete` and submit again"
        )
    if changed := re.search(r'with "(?P<who>[^"]+)"[^:]*: (?:- )?(?P<fields>\S+)', text):
        return (
            f"{place}: {changed['who']} has set {changed['fields']} to another value since; to overwrite it, use: "
            "helm upgrade --force-conflicts"
        )
    return f"{place}: {text}"
