"""Children started by core.launch: their end, their account, and what they can see."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core import launch

OTHER = launch.Account(uid=23917, gid=23917)
as_root = pytest.mark.needs("root")
as_root_with_mounts = pytest.mark.needs("root", "mount_namespace")
both_accounts = pytest.mark.parametrize("account", [None, pytest.param(OTHER, marks=as_root)], ids=["own", "other"])


def run(
    argv: list[str], *, account: launch.Account | None = OTHER, reach: tuple[Path, ...] = (), cwd: Path = Path("/")
) -> subprocess.CompletedProcess[str]:
    wrapped = launch.command(argv, account=account, reach=reach)
    return subprocess.run(wrapped, capture_output=True, text=True, timeout=20, cwd=cwd, check=False)


def account_code(account: launch.Account | None) -> str:
    """`account` as source for a program under test that has imported `launch`."""
    return f"launch.{account!r}" if account else "None"


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder only its owner can enter, with an open one, `code`, and a sibling file in it."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    (folder / "sibling").write_text("not yours")
    (folder / "sibling").chmod(0o644)
    (folder / "code").mkdir(mode=0o755)
    (folder / "code" / "file").write_text("for you")
    return folder


@both_accounts
def test_child_dies_when_its_parent_is_killed(account: launch.Account | None) -> None:
    parent_code = (
        "import subprocess, sys\n"
        "from core import launch\n"
        f"account = {account_code(account)}\n"
        "child = subprocess.Popen(launch.command(['sleep', '600'], account=account))\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
        started = launch.start_time(child)
        assert started is not None
        parent.kill()
    wait_until(lambda: not launch.is_same_process(child, started))


@both_accounts
def test_child_of_a_parent_that_died_before_it_began_does_not_run(account: launch.Account | None) -> None:
    # This command was made in another process, so its child sees a parent that is not the one it was made for.
    code = (
        "from core import launch; import shlex\n"
        f"print(shlex.join(launch.command(['echo', 'ran'], account={account_code(account)})))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True).stdout
    done = subprocess.run(["/bin/sh", "-c", f"exec {made}"], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.returncode) == ("", 137)


def test_child_keeps_its_arguments_its_folder_and_its_exit_code(tmp_path: Path) -> None:
    done = run(["sh", "-c", 'printf "%s|" "$@"; pwd; exit 7', "sh", "a b", "$x;'"], account=None, cwd=tmp_path)
    assert done.stdout == f"a b|$x;'|{tmp_path}\n"
    assert done.returncode == 7


@as_root
def test_child_runs_as_the_account_without_any_group_of_the_parent() -> None:
    wrapped = launch.command(["sh", "-c", "id -u; id -g; id -G"], account=OTHER)
    done = subprocess.run(wrapped, capture_output=True, text=True, timeout=20, check=True, extra_groups=[4, 27])
    assert done.stdout.split() == ["23917"] * 3


@as_root_with_mounts
def test_child_out_of_a_closed_folder_sees_what_it_may_reach_and_no_sibling(closed: Path) -> None:
    look = ["sh", "-c", f"cat {closed}/code/file; echo; cat {closed}/sibling; ls {closed}; pwd"]
    done = run(look, reach=(closed / "code",), cwd=closed / "code")
    assert done.stdout == f"for you\n{closed}/code\n"
    assert "No such file" in done.stderr
    assert closed.stat().st_mode & 0o777 == 0o700
    assert not os.path.ismount(closed)


@as_root_with_mounts
def test_what_a_child_writes_through_a_closed_folder_is_there_for_the_parent(closed: Path) -> None:
    work = closed / "deep" / "work"
    work.mkdir(mode=0o700, parents=True)
    work.parent.chmod(0o700)
    os.chown(work, OTHER.uid, OTHER.gid)
    done = run(["sh", "-c", f"echo hello > {work}/made"], reach=(work,))
    assert (done.stderr, (work / "made").read_text()) == ("", "hello\n")


@as_root_with_mounts
def test_child_starts_in_the_root_folder_when_its_own_is_closed(closed: Path) -> None:
    assert run(["pwd"], cwd=closed).stdout == "/\n"
    assert run(["pwd"], cwd=closed, reach=(closed / "code",)).stdout != f"{closed}/code\n"


@as_root_with_mounts
def test_reach_follows_symlinks_into_another_closed_folder(closed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other closed"
    (other / "real").mkdir(parents=True)
    (other / "real" / "file").write_text("behind a link")
    other.chmod(0o700)
    (closed / "link").symlink_to("../other closed/real")
    done = run(["cat", f"{closed}/link/file"], reach=(closed / "link",))
    assert (done.stdout, done.stderr) == ("behind a link", "")


@as_root_with_mounts
def test_folder_to_reach_may_itself_be_closed(closed: Path) -> None:
    done = run(["cat", f"{closed}/code/file"], reach=(closed,))
    assert (done.stdout, done.stderr) == ("for you", "")


@as_root_with_mounts
def test_this_very_interpreter_runs_as_another_account_wherever_it_lies(closed: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", closed / "venv"], check=True, timeout=60)
    python = closed / "venv" / "bin" / "python"
    code = "import os, ssl, sys; print(os.getuid(), sys.prefix)"
    done = run([str(python), "-c", code], reach=tuple(launch.interpreter_paths(python)))
    assert (done.stdout, done.stderr) == (f"{OTHER.uid} {closed}/venv\n", "")


@as_root
def test_nothing_is_mounted_when_nothing_is_closed() -> None:
    assert not any("unshare" in word for word in launch.command(["true"], account=OTHER))


@as_root
def test_path_that_does_not_exist_is_named() -> None:
    with pytest.raises(launch.CannotConfine, match="/no/such/place"):
        launch.command(["true"], account=OTHER, reach=[Path("/no/such/place")])


@as_root_with_mounts
def test_ordinary_user_is_told_that_another_account_needs_root() -> None:
    code = (
        "from core import launch\n"
        "try: launch.command(['true'], account=launch.Account(1234, 1234))\n"
        "except launch.CannotConfine as why: print(why)"
    )
    root = Path(__file__).parents[2]
    reach = (*launch.interpreter_paths(Path(sys.executable)), root)
    done = run([sys.executable, "-c", code], reach=reach, cwd=root)
    assert done.stdout == "Only root can start a process as uid 1234; this is uid 23917.\n"


@as_root
def test_root_without_the_right_to_mount_is_told_which_folder_is_closed(closed: Path) -> None:
    code = (
        "from pathlib import Path; from core import launch\n"
        f"try: launch.command(['true'], account=launch.{OTHER!r}, reach=[Path({str(closed / 'code')!r})])\n"
        "except launch.CannotConfine as why: print(why)"
    )
    argv = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.startswith(f"{closed} is closed to uid 23917 and this root lacks CAP_SYS_ADMIN")


def test_process_that_took_over_a_pid_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        started = launch.start_time(child.pid)
        assert started is not None
        assert not launch.send_signal(child.pid, started - 1, signal.SIGKILL)
        assert child.poll() is None
        assert launch.send_signal(child.pid, started, signal.SIGKILL)
        assert child.wait(timeout=10) == -signal.SIGKILL
        assert launch.start_time(child.pid) is None


def test_orphan_becomes_a_child_of_the_subreaper() -> None:
    code = (
        "import os, subprocess\n"
        "from core import launch\n"
        "launch.become_subreaper()\n"
        "orphan = int(subprocess.check_output(['sh', '-c', 'sleep 0.3 >&2 & echo $!']))\n"
        "print(os.waitpid(orphan, 0)[0] == orphan)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
