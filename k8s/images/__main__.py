"""`make images`: builds the images and loads them into what runs here; a line of JSON for each at the end."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k8s.images import targets
from k8s.images.failure import CannotBuild
from k8s.images.load import Containerd
from k8s.images.store import AGENT, CONTROL, TINY
from k8s.images.workshop import Built, Workshop

_NAMES = {"tiny": TINY, "agent": AGENT, "control": CONTROL}


def main() -> int:
    given = _arguments()
    try:
        containerds = targets.containerds(given.containerd, given.cluster)
        kinds = [] if containerds else targets.kind_clusters()
        workshop = Workshop(base=given.base, fresh=given.fresh)
        for name in [_NAMES[each] for each in given.image or _NAMES]:
            with _timed(f"{name} built"):
                built = workshop.build(name)
            _load(built, containerds, kinds)
            _answer(built, [str(each.socket) for each in containerds] + [f"kind:{each}" for each in kinds])
    except CannotBuild as error:
        _say(str(error))
        return 1
    return 0


def _load(built: Built, containerds: list[Containerd], kinds: list[str]) -> None:
    for containerd in containerds:
        with _timed(f"{built.name} loaded into {containerd.socket}"):
            loaded = built.load(containerd)
        _say(f"  {loaded.blobs} blobs were missing, {loaded.bytes >> 20} MiB")
    for cluster in kinds:
        with _timed(f"{built.name} loaded into {cluster} of kind"):
            targets.into_kind(built, cluster)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m k8s.images", description=__doc__)
    parser.add_argument("--image", choices=_NAMES, action="append", help="may come several times; all unless given")
    parser.add_argument(
        "--containerd",
        metavar="SOCKET",
        type=Path,
        action="append",
        default=[],
        help="load into this containerd; may come several times. Else into the cluster that runs, or into kind's",
    )
    parser.add_argument("--cluster", metavar="FOLDER", type=Path, default=Path(".berth/cluster"))
    parser.add_argument("--fresh", action="store_true", help="fetch every package anew, security updates among them")
    parser.add_argument("--base", metavar="IMAGE", help="build on this Debian instead of the one made here")
    return parser.parse_args()


def _answer(built: Built, places: list[str]) -> None:
    line = {"name": built.name, "digest": built.digest, "bytes": built.bytes, "loaded": places}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    _say(f"{what} ({time.monotonic() - began:.1f} s)")


def _say(line: str) -> None:
    sys.stderr.write(f"images: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
