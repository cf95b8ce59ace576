"""What of one cluster is to be seen on this machine, found without asking the cluster's own code."""

import subprocess
from pathlib import Path

from k8s.cluster.registry import Entry


def processes(entry: Entry) -> list[str]:
    """All that are in its control group or name its folder; for this test process itself does the latter too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            group = (folder / "cgroup").read_text()
            words = (folder / "cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not words[0]:  # a zombie, which only waits for its parent to look
            continue
        if entry.group in group or (str(entry.folder) in " ".join(words) and "pytest" not in " ".join(words)):
            found.append(f"process {folder.name}: {' '.join(words)[:80]}")
    return found


def everything(entry: Entry) -> list[str]:
    """Processes, mounts, links, namespaces, rules, control groups, files."""
    number = entry.network.second
    found = processes(entry)
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(entry.folder) in line]
    found += [f"link {path.name}" for path in Path("/sys/class/net").glob(f"bt{number}*")]
    found += [f"namespace {path.name}" for path in Path("/run/netns").glob(f"berth-{number}-*")]
    found += [line for line in _printed("nft", "list", "tables").splitlines() if f"berth-{number}" in line]
    found += [line for line in _printed("ip", "route").splitlines() if f"10.{number}." in line]
    found += [f"group {path}" for path in Path("/sys/fs/cgroup").glob(f"**/berth-cluster-{number}")]
    return found + [f"file {path}" for path in (entry.folder, entry.file) if path.exists()]


def _printed(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
