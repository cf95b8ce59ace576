"""The parts of Berth: all of them as a local stack, or one by one as a deployment runs them."""

import asyncio
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import config, rehearsal, show
from api.cli.faults import WrongUse

if TYPE_CHECKING:
    from core.settings import Settings

GROUP = "Run Berth"
_RUNTIME_HELP = "What runs agents; memory simulates them. Default: that of the default pool."
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where its data is kept; BERTH_DATA_DIR, .berth.")]


class RuntimeName(StrEnum):
    PROCESS = "process"
    KUBERNETES = "kubernetes"
    MEMORY = "memory"


def add_to(app: typer.Typer) -> None:
    for command in (up, api, worker, watch, host, show_config):
        name = "config" if command is show_config else None
        app.command(name, rich_help_panel=GROUP)(command)


def up(
    data_dir: DataDir = None,
    runtime: Annotated[RuntimeName | None, typer.Option(help=_RUNTIME_HELP)] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of the API. Default: 8000.")] = None,
) -> int:
    """Start the local stack and run it until Ctrl-C.

    Database, Temporal with its web page, API, worker, and what runs agents or watches them where they run. Agents in
    Kubernetes get a cluster of their own when none is given (KUBECONFIG).
    """
    from core.settings import DEFAULT_POOL

    given: dict[str, Any] = {}
    if data_dir is not None:
        given["data_dir"] = data_dir
    if runtime is not None:
        given["pool"] = {"runtime": runtime.value}
    if port is not None:
        given["api"] = {"port": port}
    settings, told = config.load(**given), {}
    if runtime is not None and settings.default_runtime != runtime.value:
        # The file gives the default pool another one. What was typed goes before it, also for the stack's parts.
        settings = config.load(**given, pools={DEFAULT_POOL: {"runtime": runtime.value}})
        told[f"BERTH_POOLS__{DEFAULT_POOL.upper()}__RUNTIME"] = runtime.value
    config.require_notices(settings)
    _check_runtimes(settings)
    _warn_of_unknown()
    if settings.default_runtime != RuntimeName.KUBERNETES.value or rehearsal.is_given(settings):
        return _run_stack(settings, told)
    with rehearsal.cluster_for(settings, _announce) as more:
        return _run_stack(settings, {**told, **more})


def _run_stack(settings: "Settings", environment: Mapping[str, str]) -> int:
    from core.dev.stack import StackOptions, run_stack
    from workflows.options import SEARCH_ATTRIBUTES

    options = StackOptions(
        environment=environment,
        data_dir=settings.data_dir,
        api_host=settings.api.host,
        api_port=settings.api.port,
        runtime=settings.default_runtime,
        database_url=settings.database.url.get_secret_value() if settings.database.url else None,
        temporal_address=settings.temporal.address,
        temporal_namespace=settings.temporal.namespace,
        search_attributes={key.name: "Keyword" for key in SEARCH_ATTRIBUTES},
        own_auth_secret=settings.auth.secret is None and settings.auth.jwks_url is None,
    )
    if settings.api.port == 0:
        # Who asks for any port means all of them: several stacks may start beside each other.
        options = options.on_any_ports()
    if sys.stderr.isatty():
        # It takes a while, the first time half a minute on a busy machine, and nothing else would be said.
        _announce(f"starting; its data is in {options.data_dir}")
    return asyncio.run(run_stack(options, _announce, once_ready=lambda url: _warn_of_stranded(url, settings)))


def api() -> int:
    """Serve the HTTP API."""
    settings = config.load()
    config.require_database(settings)
    config.require_temporal(settings)
    config.require_auth(settings)
    _check_runtimes(settings)
    log_as("api", settings)
    from api.app import run_api

    return asyncio.run(run_api(settings))


def worker() -> int:
    """Carry the agents' lives."""
    settings = config.load()
    config.require_database(settings)
    config.require_temporal(settings)
    config.require_notices(settings)
    _check_runtimes(settings)
    log_as("worker", settings)
    from temporal.worker import run_worker

    return asyncio.run(run_worker(settings, ready_file=settings.data_dir / "run" / "worker.ready"))


def watch() -> int:
    """Watch agents that many workers share: those of kubernetes.

    One does, others stand by.
    """
    settings = config.load()
    config.require_database(settings)
    config.require_temporal(settings)
    _check_runtimes(settings)
    log_as("watch", settings)
    from temporal.watch import run_watch

    return asyncio.run(run_watch(settings, ready_file=settings.data_dir / "run" / "watch.ready"))


def host() -> int:
    """Run agents on this machine, for the runtimes process and memory."""
    settings = config.load()
    log_as("host", settings)
    from core.runtime.host.supervisor import run_host

    return asyncio.run(run_host(settings))


def show_config() -> None:
    """Print the settings in force as YAML, secrets masked."""
    import yaml

    settings = config.load()
    if problems := config.unknown():
        raise WrongUse("; ".join(problems))
    sys.stdout.write(yaml.safe_dump(config.in_force(settings), sort_keys=False, allow_unicode=True))


def _announce(text: str) -> None:
    """`ready` is for programs too; the rest is for the person who watches."""
    if text.startswith("ready"):
        show.line(text)
    else:
        show.note(text)


def _check_runtimes(settings: "Settings") -> None:
    from core.runtime.registry import runtime_names

    known = runtime_names()
    for name, pool in settings.all_pools().items():
        if pool.runtime not in known:
            which = "" if name == "default" else f" (pool {name})"
            raise WrongUse(f"this version has no runtime {pool.runtime!r}{which}; it has {', '.join(known)}")


def _warn_of_unknown() -> None:
    for problem in config.unknown():
        show.note(f"berth: {problem}")


async def _warn_of_stranded(url: str, settings: "Settings") -> None:
    from api.cli.stranded import warn  # brings the database's half second, which nobody waits for any more

    await warn(url, settings)


def log_as(part: str, settings: "Settings") -> None:
    from core.telemetry import configure

    configure(part, json=settings.log_json)
    import structlog

    for problem in config.unknown():
        structlog.get_logger().warning("settings.unknown", problem=problem)
