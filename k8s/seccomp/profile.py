"""Writes `agent.json`: the system calls that an agent needs, with its browser's sandbox on, and no other.

    .venv/bin/python -m k8s.seccomp.profile > k8s/seccomp/agent.json

A Localhost profile of Kubernetes is a plain OCI filter (`linux.seccomp` of the runtime specification). The keys of
Docker's format (`includes`, `excludes`, `caps`) would be ignored there, which allows everything behind them.

The list is containerd's default for a container without capabilities (`contrib/seccomp`), cut down to what a 64-bit
Chromium, X server and Python may use, plus three calls that the default refuses and Chromium's sandbox is made of:
`clone` and `unshare` of user, pid and network namespaces, and `chroot` in these. With the default alone Chromium ends
with "No usable sandbox!".

Refused on purpose, although the default or some kernels allow them: ptrace, process_vm_readv, process_vm_writev and
kcmp (one process in another's memory), io_uring, bpf, userfaultfd, keyctl, perf_event_open, memfd_secret,
remap_file_pages, vmsplice and modify_ldt (a large share of kernel exploits), setns and mount, and sockets of any family
but those below (AF_VSOCK, AF_ALG, AF_PACKET, AF_CAN and their like).
"""

import json
import sys
from typing import Any

_FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr
    llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pipe
    pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr
    rename renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync
    sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes write writev
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll ppoll pselect6
    select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
"""
_MEMORY = """
    brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock
    munlockall munmap pkey_alloc pkey_free pkey_mprotect semctl semget semop semtimedop shmat shmctl shmdt shmget
"""
# setuid and its kin, capset and the rest of them change nothing without capabilities, and the sandbox's own namespace
# grants them there.
_PROCESSES = """
    arch_prctl capget capset execve execveat exit exit_group fork futex futex_waitv get_robust_list getcpu getegid
    geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage
    getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
    pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid setresgid
    setresuid setreuid setrlimit setsid setuid sigaltstack sysinfo tgkill tkill uname vfork wait4 waitid
"""
_TIME = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime times
"""
_NETWORK = """
    accept accept4 bind connect getpeername getrandom getsockname getsockopt listen recvfrom recvmmsg recvmsg
    sendmmsg sendmsg sendto setsockopt shutdown socketpair
"""
# Linux's numbers: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (which addresses this machine has).
_FAMILIES = (1, 2, 10, 16)
# CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS and CLONE_NEWIPC must not be asked for. What is left of the namespaces is
# NEWUSER, NEWPID and NEWNET. In `unshare` the bit 0x80 is CLONE_NEWTIME; in `clone` it belongs to a signal's number.
_CLOSED_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000
_NEW_TIME = 0x80
_ENOSYS = 38


def profile() -> dict[str, Any]:
    """The filter as the OCI runtime specification has it."""
    plain = " ".join((_FILES, _WAITING, _MEMORY, _PROCESSES, _TIME, _NETWORK)).split()
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        # No 32-bit ABI: none of its calls is ever right here.
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": sorted(plain), "action": "SCMP_ACT_ALLOW"},
            *(_allowed("socket", _equals(family)) for family in _FAMILIES),
            _allowed("clone", _without(_CLOSED_NAMESPACES)),
            _allowed("unshare", _without(_CLOSED_NAMESPACES | _NEW_TIME)),
            _allowed("chroot"),
            # Its flags lie in memory, where no filter sees them. "No such call" makes the C library use `clone`.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def _allowed(name: str, *args: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": [name], "action": "SCMP_ACT_ALLOW"}
    return rule | {"args": list(args)} if args else rule


def _equals(value: int) -> dict[str, Any]:
    return {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}


def _without(bits: int) -> dict[str, Any]:
    return {"index": 0, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}


def text() -> str:
    return json.dumps(profile(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
