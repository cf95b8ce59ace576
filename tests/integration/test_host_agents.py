"""What the runtime `process` does around an agent: its end, its limits, its walls. The agent is a shell script here."""

import asyncio
import json
import os
import stat
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.domain.environment import ModelAccess
from core.domain.recovery import FailureKind
from core.domain.templates import Resources, Template
from core.errors import RuntimePermanent
from core.runtime.base import AgentSpec, Observation, Owner, Phase
from core.runtime.folders import Folders
from core.runtime.journals import MAX_FILE_BYTES
from core.runtime.process import ProcessRuntime
from core.settings import Host, Settings
from tests.contracts.runtime_suite import new_spec, processes_of, watching
from tests.integration.waiting import until

# Takes the place of the agent's interpreter, and does what the template's environment tells it.
STAND_IN = '#!/bin/sh\neval "$SCRIPT"\n'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return Settings(data_dir=tmp_path / "data", host=Host(agent_python=program))


@pytest.fixture
async def runtime(settings: Settings) -> AsyncIterator[ProcessRuntime]:
    made = ProcessRuntime(settings)
    await made.start()
    yield made
    await made.close()


def doing(script: str, **changes: object) -> AgentSpec:
    """An agent that runs a line of shell."""
    resources = changes.pop("resources", Resources())
    template = Template.model_validate({"environment": {"SCRIPT": script}, "resources": resources})
    return new_spec(template=template, **changes)


async def end_of(runtime: ProcessRuntime, spec: AgentSpec) -> Observation:
    async with watching(runtime) as watch:
        await runtime.create(spec)
        return await watch.sees(spec.agent_id, Phase.EXITED)


async def log_of(runtime: ProcessRuntime, spec: AgentSpec) -> str:
    return b"".join([chunk async for chunk in runtime.logs(spec.agent_id)]).decode()


async def said(runtime: ProcessRuntime, spec: AgentSpec) -> list[str]:
    """What the script of `spec` printed until it ended, without the supervisor's own line."""
    await end_of(runtime, spec)
    return (await log_of(runtime, spec)).splitlines()[1:]


def present(paths: list[str]) -> list[str]:
    return [path for path in paths if os.path.lexists(path)]


@pytest.mark.parametrize(
    ("script", "code", "failure"),
    [
        ("exit 0", 0, None),
        ("exit 75", 75, FailureKind.CRASH),
        ("exit 76", 76, FailureKind.OUT_OF_MEMORY),
        ("exit 78", 78, FailureKind.CANNOT_START),
        ("exit 1", 1, FailureKind.CRASH),
        ("kill -TERM $$", 143, FailureKind.EXITED),
        ("kill -KILL $$", 137, FailureKind.CRASH),
        ("kill -SEGV $$", 139, FailureKind.CRASH),
    ],
)
async def test_exit_code_tells_why_the_agent_ended(
    runtime: ProcessRuntime, script: str, code: int, failure: FailureKind | None
) -> None:
    seen = await end_of(runtime, doing(script))
    assert (seen.exit_code, seen.failure) == (code, failure)


async def test_last_words_come_with_the_failure(runtime: ProcessRuntime) -> None:
    seen = await end_of(runtime, doing("echo one; echo AGENT_TOKEN is not set >&2; exit 78"))
    assert "AGENT_TOKEN is not set" in seen.detail


WORD = '{"code": 75, "reason": "the browser ended", "at": "2026-11-27T00:00:00Z"}'


@pytest.mark.parametrize(
    ("left", "code", "told"),
    [
        (f"echo '{WORD}' > exit.json", 75, "the browser ended"),
        # Of another end than this one.
        (f"echo '{WORD}' > exit.json", 1, "it ended with exit code 1: "),
        ("echo no word > exit.json", 75, "it ended with exit code 75: "),
        (f"echo '{WORD}' > other; ln -s other exit.json", 75, "it ended with exit code 75: "),
        ("mkfifo exit.json", 75, "it ended with exit code 75: "),
        ("mkdir exit.json", 75, "it ended with exit code 75: "),
    ],
)
async def test_what_the_agent_itself_left_to_be_said_of_its_end_is_told_and_nothing_else_that_lies_there(
    runtime: ProcessRuntime, left: str, code: int, told: str
) -> None:
    seen = await end_of(runtime, doing(f"cd $HOME; {left}; exit {code}"))
    assert seen.detail.startswith(told)


@pytest.mark.needs("memory_cgroup")
async def test_agent_over_its_memory_limit_is_killed_for_memory(runtime: ProcessRuntime) -> None:
    greedy = doing(
        "exec python3 -c 'x = bytearray(200 << 20)'", resources=Resources(memory_mib=32, memory_limit_mib=64)
    )
    seen = await end_of(runtime, greedy)
    assert (seen.exit_code, seen.failure) == (137, FailureKind.OUT_OF_MEMORY)
    usage = await runtime.delete(greedy.agent_id, 1)
    assert usage.peak_memory_bytes is not None
    assert 32 << 20 < usage.peak_memory_bytes <= 64 << 20


@pytest.mark.needs("memory_cgroup")
async def test_agent_cannot_fork_without_end(runtime: ProcessRuntime) -> None:
    bomb = doing("n=0; while [ $n -lt 600 ]; do sleep 300 & n=$((n+1)); done; sleep 300")
    seen = await end_of(runtime, bomb)
    assert "fork" in seen.detail


async def test_cpu_time_of_an_agent_is_counted(runtime: ProcessRuntime) -> None:
    spec = doing("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    await end_of(runtime, spec)
    usage = await runtime.delete(spec.agent_id, 1)
    assert usage.cpu_seconds is not None
    assert usage.cpu_seconds > 0.02


@pytest.mark.needs("root")
async def test_processes_that_hide_are_ended_with_their_agent(runtime: ProcessRuntime, settings: Settings) -> None:
    """New sessions, double forks, deaf to signals, without environment: all are gone before EXITED is said."""
    hidden = "cd /; sleep 300 & setsid sleep 301 & sleep 302"
    spec = doing(f"(trap '' TERM HUP; setsid env -i sh -c '{hidden}' &) & sleep 0.3; exit 75")
    async with watching(runtime) as watch:
        await runtime.create(spec)
        await until(lambda: len(processes_of(spec, settings.data_dir)) >= 4)
        await watch.sees(spec.agent_id, Phase.EXITED)
    assert processes_of(spec, settings.data_dir) == []


@pytest.mark.needs("root")
async def test_next_supervisor_clears_away_what_a_killed_one_left(runtime: ProcessRuntime, settings: Settings) -> None:
    """A second runtime on the same folder stands for the supervisor that comes after a kill."""
    spec = doing("setsid sleep 300 & sleep 300")
    await runtime.create(spec)
    await until(lambda: len(processes_of(spec, settings.data_dir)) == 3)
    after = ProcessRuntime(settings)
    await after.start()
    assert processes_of(spec, settings.data_dir) == []
    seen = await after.observe(spec.agent_id, 1)
    assert (seen.phase, seen.failure) == (Phase.EXITED, FailureKind.HOST_LOST)
    await after.delete(spec.agent_id, 1)
    await after.close()


@pytest.mark.needs("root")
async def test_next_supervisor_ends_no_process_that_is_not_an_agents(
    runtime: ProcessRuntime, settings: Settings
) -> None:
    spec = doing("sleep 300")
    await runtime.create(spec)
    named = {**os.environ, "AGENT_ID": "ag-another", "AGENT_ATTEMPT": "1"}
    foreign = [
        await asyncio.create_subprocess_exec("sleep", "300", start_new_session=True, env=env) for env in (None, named)
    ]
    try:
        after = ProcessRuntime(settings)
        await after.start()
        assert processes_of(spec, settings.data_dir) == []
        assert [process.returncode for process in foreign] == [None, None]
        await after.delete(spec.agent_id, 1)
        await after.close()
    finally:
        for process in foreign:
            process.kill()
            await process.wait()


@pytest.mark.needs("root")
async def test_each_project_has_an_account_that_it_keeps(runtime: ProcessRuntime, settings: Settings) -> None:
    one = doing("id -u; id -G; touch $AGENT_PROFILE/kept")
    other = doing("id -u")
    first, groups = await said(runtime, one)
    (second,) = await said(runtime, other)
    assert int(first) >= settings.host.uid_base
    assert groups == first
    assert second != first
    await runtime.delete(one.agent_id, 1)
    await runtime.close()
    again = ProcessRuntime(settings)
    await again.start()
    later = doing("id -u; ls $AGENT_PROFILE", user_id=one.user_id, project_id=one.project_id)
    assert await said(again, later) == [first, "kept"]
    await again.close()


@pytest.mark.needs("root")
async def test_agent_cannot_look_at_another(runtime: ProcessRuntime, settings: Settings) -> None:
    victim = doing("echo secret > $AGENT_PROFILE/cookies; echo secret > $AGENT_WORK/file; sleep 300")
    await runtime.create(victim)
    host = settings.data_dir / "host"
    profile = host / "profiles" / Folders.owner(victim.user_id, victim.project_id)
    await until(lambda: (profile / "cookies").exists())
    pid = (await runtime.observe(victim.agent_id, 1)).handle.native["pid"]  # type: ignore[union-attr]
    record = json.loads((host / "attempts" / f"{victim.agent_id}-1.json").read_text())
    tries = [
        f"cat {profile}/cookies",
        f"cat {record['work']}/file",
        f"cat /proc/{pid}/environ",
        f"kill -9 {pid}",
        f"ls {host}/profiles",
        f"cat {host}/accounts.json",
        f"cat {host}/logs/{victim.agent_id}.log",
        f"cat {host}/attempts/{victim.agent_id}-1.json",
        f"touch {host}/profiles/mine",
    ]
    words = await said(
        runtime, doing("; ".join(f"{{ {line}; }} 2>/dev/null && echo GOT IT" for line in tries) + "; echo end")
    )
    assert words == ["end"]
    await runtime.delete(victim.agent_id, 1)


async def test_agent_gets_its_environment_and_none_of_ours(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTH_AUTH__SECRET", "do-not-tell")
    spec = doing("env", model=ModelAccess(base_url="http://model", api_key=SecretStr("key")), heartbeat_seconds=7)
    found = dict(line.split("=", 1) for line in await said(runtime, spec) if "=" in line)
    assert "do-not-tell" not in str(found)
    assert not [name for name in found if name.startswith("BERTH_")]
    expected = {
        "AGENT_ID": spec.agent_id,
        "AGENT_ATTEMPT": "1",
        "USER_ID": spec.user_id,
        "PROJECT_ID": spec.project_id,
        "MAIN_BACKEND_URL": spec.backend_url,
        "AGENT_TOKEN": spec.token.get_secret_value(),
        "AGENT_HOST": "127.0.0.1",
        "AGENT_HEARTBEAT_SECONDS": "7",
        "LLM_BASE_URL": "http://model",
        "LLM_API_KEY": "key",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["AGENT_PORT"] != found["NOVNC_PORT"]
    assert json.loads(found["AGENT_BROWSER"])["width"] == 1280


async def test_scratch_folder_goes_with_the_processes_and_the_profile_stays(
    runtime: ProcessRuntime, settings: Settings
) -> None:
    spec = doing("echo $AGENT_WORK; stat -c %a $AGENT_WORK; echo x > $TMPDIR/scrap && echo x > $AGENT_PROFILE/kept")
    work, mode = await said(runtime, spec)
    assert mode == "700"
    # Sockets below it must fit into 107 bytes.
    assert len(work) < 60
    assert not present([work])
    await runtime.delete(spec.agent_id, 1)
    profile = settings.data_dir / "host" / "profiles" / Folders.owner(spec.user_id, spec.project_id)
    assert (profile / "kept").exists()
    await runtime.delete_profile(spec.user_id, spec.project_id)
    assert not profile.exists()


async def test_profiles_unused_for_long_are_cleared_away_and_no_other(
    runtime: ProcessRuntime, settings: Settings
) -> None:
    profiles = settings.data_dir / "host" / "profiles"
    living, stale, kept, recent, deep = (doing("sleep 300") for _ in range(5))
    await runtime.create(living)
    for spec in (living, stale, kept, recent, deep):
        profile = profiles / Folders.owner(spec.user_id, spec.project_id)
        (profile / "Default").mkdir(parents=True, exist_ok=True)
        long_ago = time.time() - 40 * 86400
        if spec is not deep:
            os.utime(profile / "Default", (long_ago, long_ago))
        if spec is not recent:
            os.utime(profile, (long_ago, long_ago))
    keep = [Owner(user_id=kept.user_id, project_id=kept.project_id)]
    assert (await runtime.prune(timedelta(days=30), keep)).profiles == 1
    left = {Folders.owner(spec.user_id, spec.project_id) for spec in (living, kept, recent, deep)}
    assert {path.name for path in profiles.iterdir()} == left
    assert (await runtime.prune(timedelta(days=30), keep)).profiles == 0


@pytest.mark.needs("root")
async def test_what_a_killed_agent_left_in_shared_folders_is_removed(runtime: ProcessRuntime) -> None:
    spec = doing("d=$(mktemp -d -p /tmp); touch $d/file; f=$(mktemp -p /tmp); echo $d; echo $f; kill -9 $$")
    paths = await said(runtime, spec)
    assert len(paths) == 2
    assert present(paths) == []


async def test_flood_of_output_is_kept_within_bounds(runtime: ProcessRuntime, settings: Settings) -> None:
    spec = doing("head -c 8000000 /dev/zero | tr '\\0' x | fold -w 100; echo the end")
    text = await log_of(runtime, spec) if await end_of(runtime, spec) else ""
    assert text.endswith("the end\n")
    files = list((settings.data_dir / "host" / "logs").iterdir())
    assert sum(path.stat().st_size for path in files) <= 2 * MAX_FILE_BYTES + 1000
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in files} == {0o700}


async def test_log_goes_on_when_somebody_removed_its_file(runtime: ProcessRuntime, settings: Settings) -> None:
    spec = doing(
        "while [ ! -e $AGENT_WORK/go ]; do sleep 0.05; done;"
        f" head -c {MAX_FILE_BYTES + 100_000} /dev/zero | tr '\\0' x | fold -w 100; echo; echo the end"
    )
    await runtime.create(spec)
    kept = settings.data_dir / "host" / "logs" / f"{spec.agent_id}.log"
    kept.unlink()
    (runtime._attempts[spec.agent_id, 1].record.work / "go").touch()
    assert await end_of(runtime, spec) is not None
    assert kept.read_text().endswith("the end\n")
    await runtime.delete(spec.agent_id, 1)


async def test_follower_gets_lines_as_they_come(runtime: ProcessRuntime) -> None:
    spec = doing("while [ ! -e $AGENT_WORK/go ]; do sleep 0.05; done; echo after; sleep 300")
    await runtime.create(spec)
    log = runtime.logs(spec.agent_id, follow=True)
    async with asyncio.timeout(20):
        assert b"attempt 1" in await anext(log)
        work = runtime._attempts[spec.agent_id, 1].record.work
        (work / "go").touch()
        assert await anext(log) == b"after\n"
        await runtime.delete(spec.agent_id, 1)
        assert [chunk async for chunk in log] == []


async def test_profile_that_belongs_to_someone_else_is_handed_over(runtime: ProcessRuntime, settings: Settings) -> None:
    """As after a restore from a backup, or when Berth was run by another user before."""
    spec = doing("cat $AGENT_PROFILE/Default/Cookies && echo more >> $AGENT_PROFILE/Default/Cookies && echo wrote")
    profile = settings.data_dir / "host" / "profiles" / Folders.owner(spec.user_id, spec.project_id)
    (profile / "Default").mkdir(parents=True, mode=0o700)
    (profile / "Default" / "Cookies").write_text("old\n")
    (profile / "Default" / "Cookies").chmod(0o600)
    assert await said(runtime, spec) == ["old", "wrote"]


async def test_agent_that_is_not_installed_is_refused_for_good(tmp_path: Path) -> None:
    runtime = ProcessRuntime(Settings(data_dir=tmp_path / "data", host=Host(agent_python=tmp_path / "none")))
    await runtime.start()
    with pytest.raises(RuntimePermanent, match="make setup"):
        await runtime.create(doing("true"))
    assert await runtime.list() == []
    assert list((tmp_path / "data" / "host" / "attempts").iterdir()) == []
    await runtime.close()


async def test_environment_no_process_can_have_leaves_nothing_half_made(
    runtime: ProcessRuntime, settings: Settings
) -> None:
    spec = new_spec(template=Template(environment={"A": "nul\0byte"}))
    with pytest.raises(RuntimePermanent):
        await runtime.create(spec)
    for name in ("attempts", "work"):
        assert list((settings.data_dir / "host" / name).iterdir()) == []
    assert await runtime.list() == []
    # Its place and profile are free.
    await runtime.create(doing("true", user_id=spec.user_id, project_id=spec.project_id))


@pytest.mark.needs("root", "agent", "mount_namespace")
async def test_real_agent_starts_out_of_a_closed_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    runtime = ProcessRuntime(Settings(data_dir=closed / "data"))
    await runtime.start()
    spec = new_spec()
    await runtime.create(spec)
    log = runtime.logs(spec.agent_id, follow=True)
    text = b""
    async with asyncio.timeout(30):
        async for chunk in log:
            text += chunk
            if b'"ready"' in text:
                break
    assert os.stat(closed).st_mode & 0o777 == 0o700
    await runtime.delete(spec.agent_id, 1)
    await runtime.close()
