"""Prometheus' own rule tests: each alert of the operator fires on the series that it is about, and on no other."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from helm_runs import ROOT

RULES = yaml.safe_load((ROOT / "config" / "monitoring" / "prometheus-rule.yaml").read_text())["spec"]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "octavo" / "prometheus" / "usr/bin/promtool"

# Alert, series by minute (promtool's notation), and whether it fires within the hour.
CASES = [
    ("OctavoUpgradesStopped", {"octavo_operator_upgrades_stopped": "1x60"}, True),
    ("OctavoUpgradesStopped", {"octavo_operator_upgrades_stopped": "0x60"}, False),
    ("OctavoUpgradesStopped", {"octavo_operator_upgrades_stopped": "1x3 0x57"}, False),
    # A standby says 0 beside the leader's 1.
    (
        "OctavoUpgradesStopped",
        {'octavo_operator_upgrades_stopped{pod="a"}': "1x60", 'octavo_operator_upgrades_stopped{pod="b"}': "0x60"},
        True,
    ),
    ("OctavoOperatorNotLeading", {'octavo_operator_leader{pod="a"}': "1x60"}, False),
    ("OctavoOperatorNotLeading", {'octavo_operator_leader{pod="a"}': "0x60"}, True),
    ("OctavoOperatorNotLeading", {}, True),
    ("OctavoOperatorWatchDown", {'octavo_operator_watcher_up{resource="pods"}': "0x60"}, True),
    ("OctavoOperatorWatchDown", {'octavo_operator_watcher_up{resource="pods"}': "1x60"}, False),
    (
        "LLMServiceStalled",
        {'octavo_llmservice_condition{condition="Stalled",llmservice_namespace="n",llmservice="s"}': "1x60"},
        True,
    ),
    (
        "LLMServiceNotReady",
        {
            'octavo_llmservice_condition{condition="Ready",llmservice_namespace="n",llmservice="s"}': "0x60",
            'octavo_llmservice_replicas_desired{llmservice_namespace="n",llmservice="s"}': "0x60",
        },
        False,  # suspended
    ),
]


@pytest.fixture(scope="module")
def promtool():
    found = shutil.which("promtool") or (str(CACHE) if CACHE.exists() else None)
    if found is None:
        pytest.skip("needs promtool on PATH (Debian: apt-get install prometheus)")
    return found


@pytest.mark.parametrize(("alert", "series", "fires"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_alert_fires_on_what_it_is_about_alone(promtool, tmp_path, alert, series, fires):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    rule = next(rule for group in RULES["groups"] for rule in group["rules"] if rule["alert"] == alert)
    # promtool compares whole alerts: whether any fires is asked of the series that Prometheus itself keeps of them.
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing",severity="{rule["labels"]["severity"]}"}})'
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": firing, "eval_time": "55m", "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
        ],
    }
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    result = subprocess.run(
        [promtool, "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
