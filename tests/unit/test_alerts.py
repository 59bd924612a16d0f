"""Test the alert rules with Prometheus's own tool, and the entries of the runbook that they name."""

import re
import subprocess
from pathlib import Path

import yaml

from mnist_job.errors import NAMES
from tests.conftest import tool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts/mnist-job/files/alerts.yaml"
RUNBOOK = ROOT / "ops/runbook.md"


def promtool(*arguments: object) -> None:
    check = subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_promtool_finds_no_fault():
    promtool("check", "rules", "--lint-fatal", RULES)


def test_each_alert_fires_and_stays_silent():
    files = [ROOT / f"ops/{name}.yaml" for name in ("alerts_test", "alerts_days_test")]
    promtool("test", "rules", *files)
    cases = [case for file in files for case in yaml.safe_load(file.read_text())["tests"]]
    expected = [(test["alertname"], "exp_alerts" in test) for case in cases for test in case["alert_rule_test"]]
    assert set(expected) == {(alert["alert"], fires) for alert in alerts() for fires in (True, False)}


def test_the_runbook_has_an_entry_for_each_alert_and_each_exit_code():
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    anchors = {f"ops/runbook.md#{heading.lower()}" for heading in headings}
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"ops/runbook.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook"] in anchors
    assert {f"{code}: {name}" for code, name in NAMES.items()} <= set(headings)


def alerts() -> list[dict]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for rule in group["rules"] if "alert" in rule]
