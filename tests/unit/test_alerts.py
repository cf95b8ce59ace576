"""Each alert, on numbers as Berth measures them: silent while all is well, and firing when it should."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.capabilities import ROOT

pytestmark = pytest.mark.needs("promtool")

RULES = yaml.safe_load((ROOT / "k8s/monitoring/alerts.yaml").read_text())["spec"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
Series = dict[str, str]


class Case(NamedTuple):
    """Numbers a minute apart, written as promtool wants them: `start+step x how often`."""

    well: Series
    ill: Series
    labels: dict[str, str]


POOL = {"pool": "default"}
LATENCY = "temporal_workflow_task_schedule_to_start_latency_seconds_bucket"
STANDS_BY = " ".join(["NaN"] * 91)
CASES = {
    "BerthAway": Case({'berth_database_up{pod="a"}': "1x90"}, {}, {}),
    "BerthDatabaseAway": Case(
        # One replica that lost its connections is no outage.
        {'berth_database_up{pod="a"}': "0x90", 'berth_database_up{pod="b"}': "1x90"},
        {'berth_database_up{pod="a"}': "0x90", 'berth_database_up{pod="b"}': "0x90"},
        {},
    ),
    "BerthTemporalAway": Case(
        {'berth_temporal_up{pod="a"}': "0x90", 'berth_temporal_up{pod="b"}': "1x90"},
        {'berth_temporal_up{pod="a"}': "0x90", 'berth_temporal_up{pod="b"}': "0x90"},
        {},
    ),
    "BerthStartsUndecided": Case(
        # One now and then, while a worker is rolled out.
        {f'berth_starts_undecided_total{{pod="{pod}"}}': "0+0.1x90" for pod in "ab"},
        {f'berth_starts_undecided_total{{pod="{pod}"}}': "0+0.5x90" for pod in "ab"},
        {},
    ),
    "BerthAgentsSilent": Case(
        {'berth_agents_silent{pod="a"}': "4x90", 'berth_agents_silent{pod="b"}': "4x90"},
        {'berth_agents_silent{pod="a"}': "6x90", 'berth_agents_silent{pod="b"}': "6x90"},
        {},
    ),
    "BerthWorkerAway": Case({'berth_failures_total{kind="crash",pod="a"}': "0x90"}, {}, {}),
    "BerthWorkLate": Case(
        {f'{LATENCY}{{le="{le}"}}': "0+60x90" for le in ("1", "5", "10", "+Inf")},
        {f'{LATENCY}{{le="{le}"}}': f"0+{n}x90" for le, n in (("1", 40), ("5", 40), ("10", 60), ("+Inf", 60))},
        {},
    ),
    "BerthFailures": Case(
        # A few, now and then, on either of two workers.
        {f'berth_failures_total{{kind="crash",pod="{pod}"}}': "0+0.2x90" for pod in "ab"},
        {f'berth_failures_total{{kind="crash",pod="{pod}"}}': "0+0.6x90" for pod in "ab"},
        {"kind": "crash"},
    ),
    "BerthQueueOld": Case(
        {'berth_queue_oldest_seconds{pool="default"}': "1700x90"},
        {'berth_queue_oldest_seconds{pool="default"}': "0+60x90"},
        POOL,
    ),
    "BerthMoreWantedThanFits": Case(
        {'berth_pool_agents_wanted{pool="default"}': "20x90", 'berth_pool_capacity{pool="default"}': "20x90"},
        {'berth_pool_agents_wanted{pool="default"}': "21x90", 'berth_pool_capacity{pool="default"}': "20x90"},
        POOL,
    ),
    "BerthPoolClosed": Case(
        {
            'berth_pool_closed{pool="default",reason="insufficient_cluster_resources"}': "0x90",
            'berth_pool_closed{pool="default",reason="pool_paused"}': "1x90",
        },
        {'berth_pool_closed{pool="default",reason="insufficient_cluster_resources"}': "1x90"},
        {**POOL, "reason": "insufficient_cluster_resources"},
    ),
    "BerthPoolPausedWithQueue": Case(
        {
            'berth_pool_closed{pool="default",reason="pool_paused"}': "1x90",
            'berth_queue_oldest_seconds{pool="default"}': "0x90",
        },
        {
            'berth_pool_closed{pool="default",reason="pool_paused"}': "1x90",
            'berth_queue_oldest_seconds{pool="default"}': "0+60x90",
        },
        POOL,
    ),
    "BerthSnapshotStale": Case(
        {'berth_snapshot_age_seconds{cluster="local"}': "5x90"},
        {'berth_snapshot_age_seconds{cluster="local"}': "5+60x90"},
        {"cluster": "local"},
    ),
    "BerthWatchOld": Case(
        # The process that only stands by tells no age.
        {
            'berth_watch_age_seconds{runtime="kubernetes",pod="a"}': "20x90",
            'berth_watch_age_seconds{runtime="kubernetes",pod="b"}': STANDS_BY,
        },
        {
            'berth_watch_age_seconds{runtime="kubernetes",pod="a"}': "0+60x90",
            'berth_watch_age_seconds{runtime="kubernetes",pod="b"}': STANDS_BY,
        },
        {"runtime": "kubernetes"},
    ),
    # Two processes, of which one watches; then none has its Lease.
    "BerthWatchAway": Case(
        {
            f'berth_watch_leads{{runtime="kubernetes",pod="{pod}"}}': f"{leads}x90"
            for pod, leads in (("a", 1), ("b", 0))
        },
        {f'berth_watch_leads{{runtime="kubernetes",pod="{pod}"}}': "0x90" for pod in "ab"},
        {"runtime": "kubernetes"},
    ),
    "BerthWaitEstimateWrong": Case(
        {
            'berth_queue_wait_foretold_total{pool="default",came="within"}': "0+8x90",
            'berth_queue_wait_foretold_total{pool="default",came="later"}': "0+2x90",
        },
        {
            'berth_queue_wait_foretold_total{pool="default",came="within"}': "0+2x90",
            'berth_queue_wait_foretold_total{pool="default",came="later"}': "0+8x90",
        },
        POOL,
    ),
    "BerthEvictions": Case(
        {'berth_evictions_total{cluster="local",reason="user_away"}': "7x90"},
        {'berth_evictions_total{cluster="local",reason="user_away"}': "7+1x90"},
        {"cluster": "local", "reason": "user_away"},
    ),
    "BerthNoticesLate": Case(
        {'berth_outbox_oldest_seconds{channel="webhook"}': "600x90"},
        {'berth_outbox_oldest_seconds{channel="webhook"}': "0+60x90"},
        {"channel": "webhook"},
    ),
    "BerthNoticesDead": Case(
        {'berth_outbox_dead{channel="email"}': "0x90"},
        {'berth_outbox_dead{channel="email"}': "2x90"},
        {"channel": "email"},
    ),
}
# The other half of alerts that fire for two reasons: the watches are gone, numbers and all; a pool is closed but for
# the minutes in which somebody is let in to try.
OTHERWISE = {
    "BerthWatchAway": CASES["BerthWatchAway"]._replace(ill={}, labels={}),
    "BerthPoolClosed": Case(
        {'berth_pool_closed{pool="default",reason="no_suitable_node"}': " ".join(["1x5 0x20"] * 4)},
        {'berth_pool_closed{pool="default",reason="no_suitable_node"}': " ".join(["1x5 0x1"] * 12)},
        {**POOL, "reason": "no_suitable_node"},
    ),
}


def test_every_alert_has_a_case_here() -> None:
    assert ALERTS.keys() == CASES.keys()


@pytest.mark.parametrize(
    ("alert", "case"),
    [pytest.param(alert, case, id=alert) for cases in (CASES, OTHERWISE) for alert, case in cases.items()],
)
def test_alert_is_silent_while_all_is_well_and_fires_when_it_is_not(alert: str, case: Case, tmp_path: Path) -> None:
    severity = ALERTS[alert]["labels"]["severity"]
    labels = {"alertname": alert, "alertstate": "firing", "severity": severity, **case.labels}
    promtool(
        tmp_path,
        part(alert, case.well, []),
        part(alert, case.ill, [{"labels": f"ALERTS{{{written(labels)}}}", "value": 1}]),
    )


def part(alert: str, numbers: Series, fires: list[dict[str, Any]]) -> dict[str, Any]:
    asked = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in numbers.items()],
        "promql_expr_test": [{"expr": asked, "eval_time": "80m", "exp_samples": fires}],
    }


def written(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


def promtool(folder: Path, *parts: dict[str, Any]) -> None:
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    asked = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": list(parts)}
    (folder / "tests.yaml").write_text(yaml.safe_dump(asked))
    for argv in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(["promtool", *argv], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
