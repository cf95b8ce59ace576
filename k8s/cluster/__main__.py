"""The cluster on the command line: `python -m k8s.cluster up|down|status`; `up` prints a kubeconfig's path last."""

import argparse
import os
import sys
from pathlib import Path

from core.dev.failure import CannotStart
from k8s.cluster import kind, registry
from k8s.cluster.cluster import Cluster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m k8s.cluster", description=__doc__)
    parser.add_argument("verb", choices=("up", "down", "status"))
    parser.add_argument("--folder", type=Path, default=Path(".berth/cluster"), help="where the cluster lives")
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1)
    given = parser.parse_args()
    try:
        match given.verb:
            case "up":
                print(_up(given.folder, given.nodes))  # noqa: T201 - the answer
            case "down":
                _down(given.folder)
            case _:
                _status(given.folder)
    except CannotStart as error:
        print(f"cluster: {error}", file=sys.stderr)  # noqa: T201 - no service, a person's terminal
        return 1
    return 0


def _up(folder: Path, nodes: int) -> Path:
    if (given := os.environ.get("KUBECONFIG")) is not None:
        _say("KUBECONFIG is given, so nothing is started")
        return Path(given)
    if (there := Cluster.at(folder)) is not None:
        return there.kubeconfig
    if kind.usable():
        return kind.up(folder, nodes, _say)
    return Cluster.start(folder, nodes, detached=True, announce=_say).kubeconfig


def _down(folder: Path) -> None:
    if os.environ.get("KUBECONFIG") is not None:
        _say("KUBECONFIG is given, so nothing of it is touched")
        return
    kind.down(folder, _say)
    with registry.locked():
        entry = registry.at(folder.resolve())
        if entry is not None:
            registry.remove(entry)
            _say(f"the cluster in {folder} is gone")
        for left in registry.remove_leftovers():
            _say(f"removed what was left of the one in {left.folder}")


def _status(folder: Path) -> None:
    cluster = Cluster.at(folder)
    print("down" if cluster is None else f"up: {cluster.kubeconfig}")  # noqa: T201 - the answer


def _say(line: str) -> None:
    print(f"cluster: {line}", file=sys.stderr, flush=True)  # noqa: T201 - a person's terminal


if __name__ == "__main__":
    sys.exit(main())
