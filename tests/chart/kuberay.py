"""Use KubeRay's own schemas for RayJob and RayCluster, but strictly: an unknown field is an error.

kuberay.json was made from KubeRay 1.6.0's CRDs (ray-operator/config/crd/bases) by
`python -m tests.chart.kuberay ray.io_rayjobs.yaml ray.io_rayclusters.yaml`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("kuberay.json")


def strict(schema: Any) -> Any:
    """Convert a CRD's schema to a JSON schema without descriptions and Kubernetes' extensions.

    It allows no unknown fields. Only pod templates stay open, because other tests check them as pods.
    """
    if not isinstance(schema, dict):
        return schema
    if "containers" in schema.get("properties", {}).get("spec", {}).get("properties", {}):
        return {"type": "object"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    known = {key: value for key, value in schema.items() if key != "description" and not key.startswith("x-")}
    if "properties" in known:
        known["properties"] = {name: strict(part) for name, part in known["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            known["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if key in known:
            known[key] = strict(known[key])
    return known


if __name__ == "__main__":
    kinds = {}
    for path in sys.argv[1:]:
        crd = yaml.safe_load(Path(path).read_text())["spec"]
        (version,) = (version for version in crd["versions"] if version["name"] == "v1")
        kinds[crd["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
        kinds[crd["names"]["kind"]]["properties"].pop("status")
    FILE.write_text(json.dumps(kinds, separators=(",", ":"), sort_keys=True) + "\n")
