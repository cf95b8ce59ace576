"""The seccomp profile of agents: a plain OCI filter that lets a browser's sandbox be made, and nothing dangerous."""

import json
from pathlib import Path
from typing import Any

import pytest

from k8s.seccomp import profile

FILE = Path(profile.__file__).with_name("agent.json")
FILTER: dict[str, Any] = json.loads(FILE.read_text())
RULES: list[dict[str, Any]] = FILTER["syscalls"]
NEW_NAMESPACES = {
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
    "mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "time": 0x80,
}  # fmt: skip
DANGEROUS = """
    acct add_key bpf clone3 delete_module fanotify_init finit_module fsconfig fsmount fsopen init_module
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
    lookup_dcookie memfd_secret modify_ldt mount mount_setattr move_mount name_to_handle_at open_by_handle_at
    open_tree perf_event_open pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace
    quotactl reboot remap_file_pages request_key setns sethostname settimeofday swapon syslog umount2 userfaultfd
    vmsplice
"""


def answer(call: str, *args: int) -> str:
    """What the kernel does with a call: rules are tried one by one, as the runtime specification says."""
    for rule in RULES:
        if call in rule["names"] and all(_holds(each, args) for each in rule.get("args", [])):
            return str(rule["action"])
    return str(FILTER["defaultAction"])


def _holds(condition: dict[str, Any], args: tuple[int, ...]) -> bool:
    given = args[condition["index"]]
    match condition["op"]:
        case "SCMP_CMP_EQ":
            return bool(given == condition["value"])
        case "SCMP_CMP_MASKED_EQ":
            return bool(given & condition["value"] == condition["valueTwo"])
        case other:
            raise AssertionError(f"{other} is not understood here")


def test_profile_is_what_its_program_writes() -> None:
    assert FILE.read_text() == profile.text(), "run: .venv/bin/python -m k8s.seccomp.profile > k8s/seccomp/agent.json"


def test_profile_is_a_plain_oci_filter_that_refuses_what_it_does_not_name() -> None:
    assert FILTER["defaultAction"] == "SCMP_ACT_ERRNO"
    assert set(FILTER) <= {"defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls"}
    for rule in RULES:
        # `includes`, `excludes`, `caps` and `minKernel` are docker's: a runtime would read past them and allow all.
        assert set(rule) <= {"names", "action", "args", "errnoRet"}, rule["names"]
        for condition in rule.get("args", []):
            assert set(condition) <= {"index", "value", "valueTwo", "op"}


@pytest.mark.parametrize("call", DANGEROUS.split())
def test_dangerous_call_is_refused(call: str) -> None:
    assert answer(call, 0, 0) == "SCMP_ACT_ERRNO"


@pytest.mark.parametrize("call", ["clone", "unshare"])
@pytest.mark.parametrize("namespace", ["user", "pid", "net"])
def test_browsers_sandbox_may_make_the_namespaces_it_is_made_of(call: str, namespace: str) -> None:
    assert answer(call, NEW_NAMESPACES["user"] | NEW_NAMESPACES[namespace] | 17) == "SCMP_ACT_ALLOW"
    assert answer("chroot") == "SCMP_ACT_ALLOW"


@pytest.mark.parametrize("namespace", ["mount", "cgroup", "uts", "ipc"])
def test_no_other_namespace_may_be_made(namespace: str) -> None:
    for call in ("clone", "unshare"):
        assert answer(call, NEW_NAMESPACES["user"] | NEW_NAMESPACES[namespace]) == "SCMP_ACT_ERRNO"
    assert answer("unshare", NEW_NAMESPACES["time"]) == "SCMP_ACT_ERRNO"


def test_library_falls_back_to_the_call_whose_flags_can_be_seen() -> None:
    assert [rule["errnoRet"] for rule in RULES if rule["names"] == ["clone3"]] == [38]


@pytest.mark.parametrize(("family", "number"), [("vsock", 40), ("alg", 38), ("packet", 17), ("can", 29), ("tipc", 30)])
def test_sockets_are_unix_internet_and_netlink_only(family: str, number: int) -> None:
    assert answer("socket", number) == "SCMP_ACT_ERRNO"
    assert [answer("socket", each) for each in (1, 2, 10, 16)] == ["SCMP_ACT_ALLOW"] * 4
