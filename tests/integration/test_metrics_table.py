"""docs/metrics.md against what the parts of a running stack tell: neither leaves out what the other has."""

import re
from pathlib import Path
from typing import NamedTuple, cast

import httpx2
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from core.dev.ports import Ports
from core.domain.lifecycle import AgentState
from core.runtime.base import SharedRuntime
from temporal.watch import Numbers
from tests.capabilities import ROOT
from tests.fixtures.stack import eventually, local_stack

_ROW = re.compile(r"^\| `(berth_\w+)` \| (\w+) \| ([`\w ]*)\| ([\w, ]+) \| .+ \|$", re.MULTILINE)
# Nobody measures these of a simulated agent's machines unless they are told to.
_PRETENDED = {"CPU_PERCENT": "1", "MEMORY_PERCENT": "1", "DISK_PERCENT": "1", "NETWORK_MBIT": "1"}


class Told(NamedTuple):
    type: str
    labels: frozenset[str]


class Figures(dict[str, Told]):
    """Metrics by the names that they are asked for by."""

    @classmethod
    def of(cls, text: str) -> "Figures":
        found = cls()
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created"):  # the client library's own, of each counter
                continue
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels if label != "le"}
            found[name] = Told(family.type, frozenset(labels))
        return found

    def ours(self) -> "Figures":
        return Figures({name: told for name, told in self.items() if name.startswith("berth_")})


def table(part: str) -> Figures:
    """What the document names of one part."""
    rows = _ROW.findall((ROOT / "docs/metrics.md").read_text())
    return Figures(
        {
            name: Told(kind, frozenset(re.findall(r"\w+", labels)))
            for name, kind, labels, parts in rows
            if part in parts.split(", ")
        }
    )


def named(what: str) -> set[str]:
    return set(re.findall(rf"^\| `({what}\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))


async def scraped(url: str) -> Figures:
    async with httpx2.AsyncClient(timeout=10) as http:
        return Figures.of((await http.get(url)).text)


def test_every_row_of_the_table_is_read_here() -> None:
    assert named("berth_") == {*table("api"), *table("worker"), *table("watch")}


@pytest.mark.timeout(300)
async def test_table_has_what_api_and_worker_tell_of_a_life_and_no_more(tmp_path: Path) -> None:
    port = Ports().pick(0)
    async with local_stack(
        tmp_path / "data",
        WORKER__METRICS_PORT=str(port),
        WEBHOOK__URL="http://127.0.0.1:9/",
        WEBHOOK__SECRETS="whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        WEBHOOK__ALLOW_PRIVATE="true",
        POOL__CAPACITY="1",
        TIMINGS__SNAPSHOT_SECONDS="0.2",
        TIMINGS__GRANT_TICK_SECONDS="2",
        THRESHOLDS__CPU_WINDOW_SECONDS="3",
        **{f"MEMORY__{name}": value for name, value in _PRETENDED.items()},
    ) as stack:
        ann = await stack.user("ann", "shop", "bank", tier="enterprise")
        first, second = await ann.start("shop"), await ann.start("bank")
        await ann.until(first, AgentState.RUNNING)
        await ann.stop(first, 0)
        await ann.until(second, AgentState.RUNNING)
        api, worker = Figures(), await scraped(f"http://127.0.0.1:{port}/metrics")

        async def measured() -> bool:
            api.update(await scraped(f"{stack.url}/metrics"))
            return bool(api["berth_cluster_cpu_percent"].labels)

        await eventually(measured, "the mean of the machines' CPU to be known")
    assert api.ours() == table("api")
    assert worker.ours() == table("worker")
    assert named("temporal_") <= set(worker)


class Watched:
    """A runtime that many share, of which only its age is asked."""

    def watch_age(self) -> float | None:
        return 1.0


async def test_table_has_what_a_watch_tells_and_no_more() -> None:
    numbers = Numbers({"kubernetes": cast(SharedRuntime, Watched())})
    led = []

    async def lead() -> None:
        led.append(generate_latest(numbers.registry).decode())

    await numbers.counted("kubernetes", lead)()
    assert Figures.of(led[0]).ours() == table("watch")


@pytest.mark.parametrize("alert", re.findall(r"alert `(\w+)`", (ROOT / "docs/metrics.md").read_text()))
def test_alert_that_the_table_names_is_one(alert: str) -> None:
    assert f"- alert: {alert}\n" in (ROOT / "k8s/monitoring/alerts.yaml").read_text()
