"""Test `mnist-job submit`, `status`, `logs`, `list` and `cancel` on a real cluster, for a user without Helm."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.conftest import job
from tests.documents import ROOT, block
from tests.e2e.kube import CHART, Namespace, Release, kubectl, merge, run, wait_until

MODELS = ROOT / "docs/models.md"
LONG = ("--batch-size", 4, "--epochs", 300)


@pytest.fixture(scope="module")
def user(image, open_namespace, tmp_path_factory) -> SimpleNamespace:
    """Runs commands in its own namespace; `settings` are for a small node."""
    folder = tmp_path_factory.mktemp("user")
    small = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
    values = {
        "head": {"resources": small},
        "workerGroups": {"default": {"resources": small}},
        "limits": {"backoffLimit": 0, "preRunningDeadlineSeconds": 240},
    }
    (folder / "values.yaml").write_text(yaml.safe_dump(values))

    def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return job(arguments[0], "--namespace", open_namespace.name, *arguments[1:], cwd=folder, **environment)

    def submit(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = ("--name", name, "--data", "digits", "--epochs", 3, "--values", "values.yaml", "--image", image)
        return command("submit", *settings, *arguments, **environment)

    return SimpleNamespace(command=command, submit=submit, namespace=open_namespace, folder=folder)


def state(user: SimpleNamespace, name: str) -> dict:
    done = user.command("status", name, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first(user) -> subprocess.CompletedProcess[str]:
    return user.submit("first", "--wait")


def test_submit_waits_for_success(user, first):
    assert first.returncode == 0, first.stdout + first.stderr
    assert "first: Running" in first.stdout
    result = user.namespace.get("configmap", "first-result")["data"]
    assert f"test accuracy {float(result['accuracy']):.4f}" in first.stdout


def test_it_is_a_release_that_helm_knows(user, first):
    manifest = run("helm", "get", "manifest", "first", f"--namespace={user.namespace.name}").stdout
    kept = run("helm", "get", "values", "first", f"--namespace={user.namespace.name}", "--output=yaml").stdout
    (user.folder / "kept.yaml").write_text(kept)
    chart = Path(__file__).parents[2] / "charts/mnist-job"
    template = ("helm", "template", "first", chart, f"--namespace={user.namespace.name}", "--no-hooks")
    templated = run(*template, f"--values={user.folder / 'kept.yaml'}").stdout
    assert documents(manifest) == documents(templated)


def documents(text: str) -> dict[tuple[str, str], dict]:
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


def test_status_list_and_logs_tell_the_same(user, first):
    found = state(user, "first")
    result = user.namespace.get("configmap", "first-result")["data"]
    assert (found["phase"], found["result"]) == ("Succeeded", result)
    (listed,) = json.loads(user.command("list", "-o", "json").stdout)
    assert (listed["name"], listed["phase"], listed["result"]) == ("first", "Succeeded", result)
    assert result["accuracy"][:6] in user.command("status", "first").stdout
    logs = user.command("logs", "first").stdout
    assert f"test accuracy {float(result['accuracy']):.4f}" in logs
    components = {pod["component"]: pod["name"] for pod in found["pods"]}
    assert components.keys() == {"submitter", "head", "worker"}
    for name in components.values():
        assert any(line.startswith(f"{name} ") for line in logs.splitlines())


def test_the_same_again_starts_nothing(user, first):
    before = state(user, "first")
    again = user.submit("first", "--wait")
    assert again.returncode == 0
    assert "these settings were submitted before; --force runs them again" in again.stdout
    assert state(user, "first") == before


def test_a_model_and_data_of_the_users_own_file(user):
    """Run them here and by `submit`, then change the file with Helm, which starts another run of the same release."""
    (user.folder / "notebook.py").write_text(block("own model", MODELS))
    own = ("--model", "notebook.py:model", "--data", "notebook.py:data", "--model-args", "width=4", "--epochs", 3)
    here = job("run", *own, "-o", "json", cwd=user.folder)
    assert here.returncode == 0, here.stderr
    done = user.submit("own", *own, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    first = user.namespace.get("configmap", "own-result")["data"]
    assert float(first["loss"]) == pytest.approx(json.loads(here.stdout)["loss"], rel=1e-3)  # another CPU may round
    (user.folder / "changed.py").write_text(block("own model", MODELS).replace("0.25", "0.5"))
    settings = ("--reuse-values", r"--set-file=code.notebook\.py=changed.py")
    run("helm", "upgrade", "own", CHART, f"--namespace={user.namespace.name}", *settings, folder=user.folder)
    again = Release("own", user.namespace, {})
    assert again.finished()["status"]["jobDeploymentStatus"] == "Complete"
    second = user.namespace.get("configmap", "own-result")["data"]
    assert (second["succeeded"], second["run"] != first["run"]) == ("true", True)
    assert second["loss"] != first["loss"]
    assert user.command("cancel", "own", "--delete").returncode == 0


@pytest.mark.full
def test_a_run_below_the_accuracy_asked_for_ends_with_its_code(user, first):
    done = user.submit("first", "--min-accuracy", 1, "--wait")
    assert done.returncode == 7
    assert "started; it replaces first-" in done.stdout
    assert done.stderr.startswith("mnist-job: ")
    assert "--min-accuracy" in done.stderr
    assert user.command("cancel", "first", "--delete").returncode == 0
    wait_until(lambda: user.command("status", "first").returncode == 4, "the end of the job")


@pytest.mark.full
def test_cancel_frees_the_pods_and_submit_goes_on(user):
    assert user.submit("long", *LONG).returncode == 0
    wait_until(lambda: (state(user, "long")["progress"] or "").startswith("epoch "), "the first epoch")
    following = user.command("cancel", "long")
    assert "resumes from the last checkpoint" in following.stdout
    wait_until(lambda: state(user, "long")["phase"] == "Cancelled", "the end of the run")
    wait_until(lambda: state(user, "long")["pods"] == [], "the end of its pods")
    again = user.submit("long", *LONG)
    assert "resumes where it was cancelled" in again.stdout
    wait_until(lambda: (state(user, "long")["progress"] or "").startswith("epoch "), "another epoch")
    assert "from epoch " in user.command("logs", "long").stdout
    former = state(user, "long")["rayjob"]
    upgrade = (
        "upgrade",
        "long",
        CHART,
        f"--namespace={user.namespace.name}",
        "--reuse-values",
        "--set=settings.seed=1",
    )
    run("helm", *upgrade)  # while the run trains
    assert state(user, "long")["rayjob"] != former
    assert user.command("cancel", "long", "--delete").returncode == 0


def release_of(user: SimpleNamespace, name: str) -> Release:
    """Return a release that `submit` has installed or will install, for `helm` to change. Its pods never run."""
    values = yaml.safe_load((user.folder / "values.yaml").read_text())
    image = {"repository": "localhost:1/none", "tag": "none"}
    return Release(name, user.namespace, merge(values, {"image": image, "settings": {"data": "digits"}}))


@pytest.mark.full
@pytest.mark.parametrize("program", ["helm", *filter(None, [os.environ.get("E2E_HELM3")])])
def test_helm_and_submit_take_over_from_each_other(user, program):
    """They do so with any name of the interpreter, and although KubeRay has changed each RayJob in between."""
    name = f"shared-{len(program)}"
    shared = release_of(user, name)
    values = user.folder / f"{name}.yaml"
    values.write_text(yaml.safe_dump(shared.base))

    def upgraded(epochs: int) -> None:
        options = ("--install", f"--namespace={user.namespace.name}", f"--values={values}")
        run(program, "upgrade", name, CHART, *options, f"--set=settings.epochs={epochs}")

    def submitted(interpreter: str, epochs: int) -> None:
        (user.folder / interpreter).unlink(missing_ok=True)
        (user.folder / interpreter).symlink_to(sys.executable)
        options = ("--namespace", user.namespace.name, "--name", name, "--values", values, "--epochs", epochs)
        packages = {"PYTHONPATH": os.pathsep.join(sys.path)}  # the link does not find the packages
        run(user.folder / interpreter, "-m", "mnist_job", "submit", *options, environment=os.environ | packages)

    upgraded(4)
    submitted("py", 5)
    upgraded(6)
    run(program, "rollback", name, f"--namespace={user.namespace.name}")
    submitted("python3.11", 7)
    submitted("py", 7)
    upgraded(8)
    kept = user.namespace.kubectl("get", "rayjobs,roles,configmaps", "--show-managed-fields", "--output=json")
    ours = [one["metadata"] for one in json.loads(kept)["items"] if name in one["metadata"]["name"]]
    managers = {entry["manager"] for one in ours for entry in one["managedFields"]}
    assert managers <= {"helm", "ray-operator", "kuberay-operator", "manager"}
    assert shared.rayjob()["metadata"]["name"] in [one["name"] for one in ours]  # only one is left
    assert user.command("cancel", name, "--delete").returncode == 0


@pytest.mark.full
def test_a_failed_upgrade_starts_nothing_and_what_it_leaves_is_found_by_its_labels(user):
    namespace = user.namespace
    before = namespace.resources()
    left = release_of(user, "left")
    left.install({})
    first = left.rayjob()["metadata"]["uid"]
    namespace.kubectl("create", "serviceaccount", "some")
    kinds = "rayjobs.ray.io,configmaps,secrets,serviceaccounts,networkpolicies.networking.k8s.io,persistentvolumeclaims"
    kinds += ",rolebindings.rbac.authorization.k8s.io"
    most = ("--verb=get,list,create,update,patch", f"--resource={kinds}")
    namespace.kubectl("create", "role", "most", *most)
    namespace.kubectl(
        "create", "role", "looks-at-roles", "--verb=get,list", "--resource=roles.rbac.authorization.k8s.io"
    )
    for role in ("most", "looks-at-roles"):
        namespace.kubectl("create", "rolebinding", role, f"--role={role}", f"--serviceaccount={namespace.name}:some")
    some = str(kubeconfig_of("some", namespace, user.folder))
    values = user.folder / "left.yaml"
    values.write_text(yaml.safe_dump(left.base))

    upgrade = ("upgrade", "left", CHART, f"--namespace={namespace.name}", f"--values={values}", "--set=settings.seed=1")
    done = run("helm", *upgrade, check=False, environment=os.environ | {"KUBECONFIG": some})
    assert done.returncode != 0
    assert 'cannot patch resource "roles"' in done.stderr
    assert left.rayjob()["metadata"]["uid"] == first
    who = f"system:serviceaccount:{namespace.name}:some"
    told = f"mnist-job: {{}} in namespace {namespace.name}: {who} may not patch roles"
    for name in ("left", "new"):  # this account also may not delete what was created
        done = user.command("submit", "--name", name, "--seed", 2, "--values", values, KUBECONFIG=some)
        cause, note = done.stderr.splitlines()[-2:]
        assert done.returncode == 4
        assert cause.startswith(told.format(name))
        assert "some objects that it created are left, because they cannot be removed: " in note
    assert left.rayjob()["metadata"]["uid"] == first

    left.uninstall()
    assert left.rayjob()["metadata"]["uid"] == first  # Helm has removed the objects of its last, failed revision
    for name in ("left", "new"):
        assert user.command("cancel", name, "--delete").returncode == 0
    for role in ("most", "looks-at-roles"):
        namespace.kubectl("delete", f"role/{role}", f"rolebinding/{role}")
    namespace.kubectl("delete", "serviceaccount/some")
    left.gone(but=before)
    gone = user.command("cancel", "left", "--delete")
    assert (gone.returncode, gone.stderr) == (4, f"mnist-job: there is no job left in namespace {namespace.name}\n")


def test_a_release_of_another_chart_is_left_alone(user):
    chart = user.folder / "other"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: other, version: 1.0.0}")
    configmap = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}}
    (chart / "templates/configmap.yaml").write_text(yaml.safe_dump(configmap))
    run("helm", "install", "theirs", chart, f"--namespace={user.namespace.name}")
    for command in (["cancel", "theirs", "--delete"], ["submit", "--name", "theirs"]):
        done = user.command(*command)
        assert done.returncode == 4
        assert "theirs" in done.stderr
        assert "is a release of another chart, other; take another name" in done.stderr
    assert user.namespace.get("configmap", "theirs")
    run("helm", "uninstall", "theirs", f"--namespace={user.namespace.name}")


@pytest.mark.full
def test_an_image_that_cannot_be_pulled(user, image):
    none = f"{image.rpartition(':')[0]}:there-is-none"
    short = {"limits": {"preRunningDeadlineSeconds": 30}}
    (user.folder / "values.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((user.folder / "values.yaml").read_text()) | short)
    )
    done = user.submit("unpulled", "--image", none, "--wait")
    assert done.returncode == 4
    for text in (done.stdout, done.stderr):
        assert f"image {none} cannot be pulled" in text
    assert "PreRunningDeadlineExceeded" in done.stderr
    assert user.command("cancel", "unpulled", "--delete").returncode == 0


@pytest.mark.full
def test_more_cpus_than_there_are(user):
    file = user.folder / "huge.yaml"
    huge = {"workerGroups": {"default": {"resources": {"requests": {"cpu": "1000"}}}}}
    file.write_text(yaml.safe_dump(huge | {"limits": {"backoffLimit": 0, "preRunningDeadlineSeconds": 30}}))
    done = user.submit("huge", "--values", file, "--wait")
    assert done.returncode == 4
    (node, *_) = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    assert "Insufficient cpu" in done.stderr
    assert f"CPUs: 1000 requested, {node['status']['allocatable']['cpu']} on all nodes, at most " in done.stderr
    assert user.command("cancel", "huge", "--delete").returncode == 0


def test_a_namespace_that_is_not_there(user):
    done = job("submit", "--namespace", "there-is-none", "--name", "lost", cwd=user.folder)
    assert (done.returncode, done.stderr) == (
        4,
        "mnist-job: there is no namespace there-is-none; create it: kubectl create namespace there-is-none\n",
    )


def kubeconfig_of(account: str, namespace: Namespace, folder: Path) -> Path:
    """Return a kubeconfig with which the user is this ServiceAccount."""
    content = yaml.safe_load(kubectl("config", "view", "--minify", "--raw", "--output=yaml"))
    content["users"][0]["user"] = {"token": namespace.kubectl("create", "token", account).strip()}
    content["contexts"][0]["context"]["namespace"] = namespace.name
    file = folder / f"{account}.kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return file


def test_rights_that_are_missing_are_named_one_after_the_other(user):
    namespace = user.namespace
    namespace.kubectl("create", "serviceaccount", "guest")
    guest = str(kubeconfig_of("guest", namespace, user.folder))
    who = f"system:serviceaccount:{namespace.name}:guest"
    for command in (["status", "first"], ["submit", "--name", "theirs"], ["list"], ["cancel", "first"]):
        done = user.command(*command, KUBECONFIG=guest)
        assert (done.returncode, done.stderr) == (
            4,
            f"mnist-job: RayJobs in namespace {namespace.name}: {who} may not list rayjobs.ray.io in namespace "
            f"{namespace.name}; ask for a Role that has this verb for this resource\n",
        )
    namespace.kubectl("create", "role", "looks", "--verb=get,list", "--resource=rayjobs.ray.io,secrets")
    namespace.kubectl("create", "rolebinding", "looks", "--role=looks", f"--serviceaccount={namespace.name}:guest")
    done = user.command("submit", "--name", "theirs", KUBECONFIG=guest)
    assert done.returncode == 4
    assert f"{who} may not " in done.stderr
    assert "ask for a Role that has this verb for this resource" in done.stderr
    assert namespace.list("rayjobs.ray.io", "app.kubernetes.io/instance=theirs") == []
