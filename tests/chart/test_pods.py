"""Test the pods: storage, secrets, GPUs, schedulers; and `helm test`."""

import json
import re
import subprocess

import pytest
import yaml

from tests.chart.rendering import CI, Manifests, notes, render
from tests.chart.test_network import INTERNET, pod, reaches

REPLICATED = {"accessModes": ["ReadWriteMany"]}
RAY = ("head", "worker")


def container(manifests: Manifests, component: str) -> dict:
    (found,) = manifests.pods[component]["spec"]["containers"]
    return found


def together(manifests: Manifests, component: str) -> list[dict]:
    """Return the pod's rules about the pods that must be on the same node."""
    affinity = manifests.pods[component]["spec"].get("affinity", {})
    return affinity.get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])


@pytest.mark.parametrize(
    ("storage", "claim", "made", "one_node"),
    [
        ({}, "demo", True, True),
        ({"persistentVolumeClaim": REPLICATED}, "demo", True, False),
        ({"persistentVolumeClaim": {"existingClaim": "models"}}, "models", False, True),
        ({"persistentVolumeClaim": {"existingClaim": "models"} | REPLICATED}, "models", False, False),
        ({"uri": "s3://bucket/runs"}, None, False, False),
    ],
)
def test_head_and_workers_share_their_storage(storage, claim, made, one_node):
    manifests = render({"storage": storage})
    assert [found["metadata"]["name"] for found in manifests.of("PersistentVolumeClaim")] == ([claim] if made else [])
    for component in RAY:
        volumes = manifests.pods[component]["spec"]["volumes"]
        claims = [
            volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume
        ]
        mounts = [mount["mountPath"] for mount in container(manifests, component)["volumeMounts"]]
        assert claims == ([claim] if claim else [])
        assert ("/storage" in mounts) is (claim is not None)
        assert [term["topologyKey"] for term in together(manifests, component)] == ["kubernetes.io/hostname"] * one_node


def test_one_node_is_that_of_the_releases_own_ray_pods():
    manifests = render()
    (term,) = together(manifests, "worker")
    assert term["labelSelector"] == {
        "matchLabels": {"app.kubernetes.io/instance": "demo"},
        "matchExpressions": [{"key": "app.kubernetes.io/component", "operator": "In", "values": ["head", "worker"]}],
    }


def test_a_users_affinity_stays_beside_the_charts():
    own = {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "zone"}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [own]}, "nodeAffinity": {"a": "b"}}
    manifests = render({"head": {"affinity": affinity}})
    assert [term["topologyKey"] for term in together(manifests, "head")] == ["zone", "kubernetes.io/hostname"]
    assert manifests.pods["head"]["spec"]["affinity"]["nodeAffinity"] == {"a": "b"}
    assert len(together(manifests, "worker")) == 1


def test_a_claim_is_kept_only_if_that_is_asked_for():
    for keep, annotations in ((False, None), (True, {"helm.sh/resource-policy": "keep"})):
        (claim,) = render({"storage": {"persistentVolumeClaim": {"keep": keep}}}).of("PersistentVolumeClaim")
        assert claim["metadata"].get("annotations") == annotations


def test_secrets_are_referred_to_and_never_copied():
    manifests = render({"storage": {"uri": "s3://bucket/runs", "credentialsSecret": "s3"}})
    assert manifests.of("Secret") == []
    for component in RAY:
        assert container(manifests, component)["envFrom"] == [{"secretRef": {"name": "s3"}}]
        assert "args" not in container(manifests, component)
    assert "s3" not in {key for configmap in manifests.of("ConfigMap") for key in configmap.get("data", {})}
    assert "credentials" not in manifests.settings
    assert "envFrom" not in container(manifests, "submitter")


@pytest.mark.parametrize(("own", "found"), [([], ["true"]), (["false"], ["false"])])
def test_with_credentials_no_client_of_s3_waits_for_the_instances_metadata(own, found):
    name = "AWS_EC2_METADATA_DISABLED"
    env = [{"name": name, "value": value} for value in own]
    manifests = render({"storage": {"uri": "s3://bucket/runs", "credentialsSecret": "s3"}, "env": env})
    for component in RAY:
        assert [one["value"] for one in container(manifests, component)["env"] if one["name"] == name] == found
    for one in container(render({"env": env}), "head")["env"]:
        assert one["name"] != name or own


def test_a_group_says_what_its_gpus_are_called():
    gpus = {"image": {"tag": "x-gpu"}, "workerGroups": {"default": {"gpus": 1, "gpuResource": "nvidia.com/mig-1g.5gb"}}}
    manifests = render(gpus)
    assert container(manifests, "worker")["resources"]["limits"]["nvidia.com/mig-1g.5gb"] == 1
    (group,) = manifests.cluster["workerGroupSpecs"]
    assert group["rayStartParams"]["num-gpus"] == "1"  # Ray itself knows only nvidia.com/gpu
    assert yaml.safe_load(manifests.settings)["use_gpu"] is True


@pytest.mark.parametrize("mode", ["job", "cluster"])
def test_a_group_that_may_grow_has_the_autoscaler(mode):
    manifests = render({"mode": mode, "workerGroups": {"default": {"minReplicas": 0, "maxReplicas": 4}}})
    (group,) = manifests.cluster["workerGroupSpecs"]
    assert [group[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [0, 0, 4]
    assert manifests.cluster["enableInTreeAutoscaling"] is True
    options = manifests.cluster["autoscalerOptions"]
    assert options["version"] == "v2"
    assert options["securityContext"] == container(manifests, "head")["securityContext"]
    assert options["resources"]["limits"].keys() >= {"memory", "ephemeral-storage"}
    head = manifests.pods["head"]["spec"]
    assert {mount["name"] for mount in options["volumeMounts"]} <= {volume["name"] for volume in head["volumes"]}
    assert all("sizeLimit" in volume.get("emptyDir", {"sizeLimit": 0}) for volume in head["volumes"])
    assert head["automountServiceAccountToken"] is True
    assert manifests.pods["worker"]["spec"]["automountServiceAccountToken"] is False
    assert reaches(manifests, pod("head"), INTERNET, 6443)


@pytest.mark.parametrize("mode", ["job", "cluster"])
def test_a_group_that_may_not_grow_has_none(mode):
    manifests = render({"mode": mode, "workerGroups": {"default": {"minReplicas": 2, "maxReplicas": 2}}})
    assert not {"enableInTreeAutoscaling", "autoscalerOptions"} & manifests.cluster.keys()


@pytest.mark.parametrize(("running", "replicas"), [(3, 3), (9, 4), (0, 1)])
def test_an_upgrade_leaves_the_pods_that_the_autoscaler_has_added(running, replicas, overriding):
    strategy = {"workersToDelete": ["a"]}
    live = {"groupName": "default", "replicas": running, "scaleStrategy": strategy, "maxReplicas": 7}
    upgraded = overriding("mnist-job.live", {"spec": {"workerGroupSpecs": [live]}})
    values = {"mode": "cluster", "workerGroups": {"default": {"minReplicas": 1, "maxReplicas": 4}}}
    (group,) = render(values, of=upgraded).cluster["workerGroupSpecs"]
    assert (group["replicas"], group["maxReplicas"], group["scaleStrategy"]) == (replicas, 4, strategy)


@pytest.mark.parametrize(
    ("values", "request_", "limit"),
    [
        ({}, "1Gi", "10Gi"),
        ({"tmpSizeLimit": "0.5Gi"}, "0.5Gi", "0.5Gi"),
        ({"tmpSizeLimit": 2e9}, "1Gi", 2e9),
        ({"head": {"resources": {"requests": {"ephemeral-storage": "3Gi"}}}}, "3Gi", "10Gi"),
        ({"head": {"resources": {"limits": {"ephemeral-storage": "20Gi"}}}}, "1Gi", "20Gi"),
        ({"scheduling": {"provider": "kueue", "queue": "q"}}, None, None),
    ],
)
def test_a_pod_asks_for_the_disk_that_its_tmp_may_take(values, request_, limit):
    resources = container(render(values), "head")["resources"]
    assert resources["requests"].get("ephemeral-storage") == request_
    assert resources["limits"].get("ephemeral-storage") == limit


def test_the_pushgateway_s_image_is_one_by_its_digest():
    image = {"digest": f"sha256:{'0' * 64}"}
    deployed = {"metrics": {"pushgateway": {"deploy": {"enabled": True, "image": image}}}}
    assert container(render(deployed), "pushgateway")["image"] == f"docker.io/prom/pushgateway@{image['digest']}"


@pytest.mark.parametrize("mode", ["job", "cluster"])
def test_ray_wants_a_token(mode):
    assert render({"mode": mode}).cluster["authOptions"] == {"mode": "token"}  # KubeRay creates the Secret
    own = render({"mode": mode, "auth": {"existingSecret": "mine"}})
    assert own.cluster["authOptions"] == {"mode": "token", "secretName": "mine"}


def test_both_modes_have_the_same_pods():
    job, cluster = render(), render({"mode": "cluster"})
    differing = {"automountServiceAccountToken", "volumes"}  # the head's token; the settings' name
    for component in RAY:
        specs = [manifests.pods[component]["spec"] for manifests in (job, cluster)]
        assert all(specs[0][key] == specs[1][key] for key in specs[0].keys() - differing)
    assert cluster.pods.keys() == {"head", "worker"}
    assert cluster.of("Role") == cluster.of("RoleBinding") == []


def test_a_job_is_bounded_in_time_and_retries():
    limits = {
        "preRunningDeadlineSeconds": 1,
        "activeDeadlineSeconds": 2,
        "backoffLimit": 3,
        "ttlSecondsAfterFinished": 5,
    }
    spec = render({"limits": limits | {"submitterBackoffLimit": 4}}).ray["spec"]
    assert {name: spec[name] for name in limits} == limits
    assert spec["submitterConfig"] == {"backoffLimit": 4}
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submitterPodTemplate"]["spec"]["activeDeadlineSeconds"] == 2


def test_the_submitter_leaves_its_command_to_kuberay():
    assert not {"command", "args"} & container(render(), "submitter").keys()


@pytest.mark.parametrize(
    ("scheduling", "labels", "pod_priority"),
    [
        ({}, {}, None),
        ({"priorityClass": "p"}, {}, "p"),
        (
            {"provider": "kueue", "queue": "q", "priorityClass": "p"},
            {"kueue.x-k8s.io/queue-name": "q", "kueue.x-k8s.io/priority-class": "p"},
            None,
        ),
        (
            {"provider": "volcano", "queue": "q", "priorityClass": "p"},
            {"volcano.sh/queue-name": "q", "ray.io/priority-class-name": "p"},
            None,
        ),
        ({"provider": "volcano"}, {}, None),
        (
            {"provider": "yunikorn", "queue": "root.q", "priorityClass": "p"},
            {
                "ray.io/gang-scheduling-enabled": "true",
                "yunikorn.apache.org/app-id": "NAME",
                "yunikorn.apache.org/queue": "root.q",
            },
            "p",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["job", "cluster"])
def test_a_scheduler_recognizes_its_own(mode, scheduling, labels, pod_priority):
    storage = {"persistentVolumeClaim": REPLICATED}
    manifests = render({"mode": mode, "scheduling": scheduling, "storage": storage})
    name = manifests.ray["metadata"]["name"]
    standard = render({"mode": mode, "storage": storage}).ray["metadata"]["labels"]
    expected = {key: name if value == "NAME" else value for key, value in labels.items()}
    assert manifests.ray["metadata"]["labels"] == standard | expected
    assert {pod["spec"].get("priorityClassName") for pod in manifests.pods.values()} == {pod_priority}


@pytest.mark.parametrize(
    ("provider", "suspended", "kept"), [("kueue", False, True), ("kueue", True, False), ("volcano", False, False)]
)
@pytest.mark.parametrize("mode", ["job", "cluster"])
def test_workers_that_kueue_has_admitted_stay_as_they_are(mode, provider, suspended, kept, overriding):
    """Kueue writes into the worker groups, and Helm 4 fails if an upgrade would change that."""
    values = {"mode": mode, "scheduling": {"provider": provider, "queue": "q"}}
    groups = [{"groupName": "admitted"}]
    spec = {"rayClusterSpec": {"workerGroupSpecs": groups}} if mode == "job" else {"workerGroupSpecs": groups}
    live = {"spec": spec | ({"suspend": True} if suspended else {})}
    upgraded = render(values, of=overriding("mnist-job.live", live))
    assert (upgraded.cluster["workerGroupSpecs"] == groups) is kept
    assert kept or upgraded.cluster == render(values).cluster


def test_what_the_user_puts_on_pods_is_on_all_of_them():
    values = yaml.safe_load(
        """
        labels: {team: vision}
        podLabels: {cost-center: "4711"}
        podAnnotations: {note: x}
        podSecurityContext: {runAsUser: null, fsGroup: 2000}
        image: {pullSecrets: [registry]}
        metrics: {pushgateway: {deploy: {enabled: true}}}
        """
    )
    pods = render(values).pods
    assert pods.keys() == {"head", "worker", "submitter", "test", "pushgateway"}
    for each in pods.values():
        assert each["metadata"]["labels"].items() >= {"team": "vision", "cost-center": "4711"}.items()
        assert each["metadata"]["annotations"].items() >= {"note": "x"}.items()
        assert "runAsUser" not in each["spec"]["securityContext"]
        assert each["spec"]["securityContext"]["fsGroup"] == 2000
        assert each["spec"]["imagePullSecrets"] == [{"name": "registry"}]


@pytest.mark.parametrize(
    ("files", "code", "told"),
    [
        ({}, 1, "no result yet: RayJob NAME has not ended, or could not start"),
        (
            {"rayjob": "demo-00000000", "exit-code": "0"},
            1,
            "the result is that of RayJob demo-00000000: RayJob NAME has",
        ),
        ({"rayjob": "NAME", "exit-code": "0", "accuracy": "0.98"}, 0, "accuracy: 0.98"),
        ({"rayjob": "NAME", "exit-code": "7", "reason": "too poor", "last-success": "{}"}, 7, "reason: too poor"),
    ],
)
def test_helm_test_tells_the_result_and_ends_as_the_run_did(files, code, told, tmp_path):
    manifests = render()
    name = manifests.ray["metadata"]["name"]
    for file, text in files.items():
        (tmp_path / file).write_text(text.replace("NAME", name))
    pod = container(manifests, "test")
    done = subprocess.run([*pod["command"], *pod["args"]], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    assert told.replace("NAME", name) in done.stdout


def test_helm_test_leaves_nothing_behind():
    annotations = render().pods["test"]["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "test"
    assert annotations["helm.sh/hook-delete-policy"].split(",") == [
        *("before-hook-creation", "hook-succeeded", "hook-failed"),
    ]


@pytest.mark.parametrize("file", CI, ids=lambda file: file.name.removesuffix("-values.yaml"))
def test_the_notes_say_that_helm_does_not_wait(file):
    values = yaml.safe_load(file.read_text())
    assert ("--wait" in notes(values)) is (values.get("mode", "job") == "job")


@pytest.mark.parametrize("file", CI, ids=lambda file: file.name.removesuffix("-values.yaml"))
def test_the_notes_name_what_there_is(file):
    values = yaml.safe_load(file.read_text())
    name, text = render(values).ray["metadata"]["name"], notes(values)
    assert len(re.findall(r"^ +(kubectl|helm|ray|export) ", text, re.MULTILINE)) >= 3
    assert name in text
    assert json.dumps(values.get("storage", {}).get("credentialsSecret", "none")) not in text
