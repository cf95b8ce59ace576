"""The zip of saved work: what is in it, what is left out and why, and what a page may have planted."""

import io
import json
import os
import socket
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent_image.agent import packing
from agent_image.agent.checkpoint import MOST_BYTES, OpenTask
from agent_image.agent.packing import pack
from core.domain.wire import RunTask

LATER = time.monotonic() + 3600
TASK = {"commandId": "do", "task": "order tea"}
NOON = 1_790_000_000.0


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name in ("downloads", "files"):
        (tmp_path / "work" / name).mkdir(parents=True)
    return tmp_path / "work"


def put(path: Path, content: bytes, changed: float = NOON) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (changed, changed))
    return path


class Zip:
    """A packed zip, read back."""

    def __init__(self, work: Path, *, task: Any = None, limit: int = 50 << 20, until: float = LATER) -> None:
        self.file = io.BytesIO()
        self.packed = pack(work, self.file, limit, until, task, {"attempt": 1})
        assert self.packed is not None
        self.archive = zipfile.ZipFile(self.file)
        assert self.archive.testzip() is None
        self.manifest = json.loads(self.archive.read("manifest.json"))
        self.size = len(self.file.getvalue())

    def names(self) -> list[str]:
        return self.archive.namelist()

    def left_out(self) -> dict[str, str]:
        return {line["name"]: line["why"] for line in self.manifest["leftOut"]}


def test_open_task_downloads_and_files_are_packed_newest_first(work: Path) -> None:
    put(work / "downloads" / "old.pdf", b"old", NOON)
    put(work / "downloads" / "new.pdf", b"new", NOON + 60)
    put(work / "files" / "browseruse_agent_data" / "todo.md", b"- tea", NOON + 30)
    found = Zip(work, task=TASK)
    files = ["downloads/new.pdf", "files/browseruse_agent_data/todo.md", "downloads/old.pdf"]
    assert found.names() == ["task.json", *files, "manifest.json"]
    assert json.loads(found.archive.read("task.json")) == TASK
    assert found.archive.read("downloads/new.pdf") == b"new"
    assert [line["name"] for line in found.manifest["files"]] == files
    assert found.manifest["files"][0]["bytes"] == 3
    assert (found.manifest["task"], found.manifest["attempt"], found.manifest["leftOut"]) == ("task.json", 1, [])


def test_where_there_is_nothing_to_save_nothing_is_packed(work: Path) -> None:
    put(work / "files" / "browseruse_agent_data" / "todo.md", b"")
    put(work / "downloads" / "film.mkv", b"")
    put(work / "downloads" / "film.mkv.crdownload", b"half")
    (work / "downloads" / "link").symlink_to("/etc/passwd")
    assert pack(work, io.BytesIO(), 50 << 20, LATER, None, {}) is None
    (work / "files").rename(work / "elsewhere")
    assert pack(work, io.BytesIO(), 50 << 20, LATER, None, {}) is None


def test_unfinished_downloads_are_left_out(work: Path) -> None:
    put(work / "downloads" / "film.mkv.crdownload", b"half")
    found = Zip(work, task=TASK)
    assert found.left_out() == {"downloads/film.mkv.crdownload": "unfinished"}
    assert found.names() == ["task.json", "manifest.json"]


def test_what_is_too_large_is_left_out_and_smaller_ones_behind_it_are_not(work: Path) -> None:
    put(work / "downloads" / "huge", bytes(300_000), NOON + 9)
    put(work / "downloads" / "first", b"1" * 60_000, NOON + 2)
    put(work / "downloads" / "second", b"2" * 60_000, NOON + 1)
    put(work / "downloads" / "small", b"3" * 1000, NOON)
    found = Zip(work, limit=100_000)
    assert [line["name"] for line in found.manifest["files"]] == ["downloads/first", "downloads/small"]
    assert found.left_out() == {"downloads/huge": "too_large", "downloads/second": "too_large"}
    assert found.size <= 100_000


def test_many_files_with_long_names_stay_under_the_limit(work: Path) -> None:
    for number in range(60):
        put(work / "downloads" / f"{'ü' * 120}{number}", b"x" * 10_000)
    found = Zip(work, limit=600_000)
    assert found.size <= 600_000
    assert 20 < len(found.manifest["files"]) < 60


def test_one_download_that_is_too_large_is_told_of_though_nothing_else_is_saved(work: Path) -> None:
    put(work / "downloads" / "huge", bytes(300_000))
    found = Zip(work, limit=100_000)
    assert found.names() == ["manifest.json"]
    assert found.left_out() == {"downloads/huge": "too_large"}


def test_nothing_that_a_page_plants_is_followed(work: Path, tmp_path: Path) -> None:
    secret = put(tmp_path / "secret", b"cookie jar")
    (tmp_path / "outside").mkdir()
    put(tmp_path / "outside" / "inner", b"cookie jar")
    downloads = work / "downloads"
    (downloads / "link").symlink_to(secret)
    (downloads / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(downloads / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(downloads / "socket"))
    put(downloads / "true", b"mine")
    found = Zip(work)
    assert found.names() == ["downloads/true", "manifest.json"]
    assert found.left_out() == {f"downloads/{name}": "not_a_file" for name in ("link", "folder", "pipe", "socket")}
    assert b"cookie jar" not in found.file.getvalue()


def test_a_folder_in_whose_place_a_link_was_put_is_not_entered(work: Path, tmp_path: Path) -> None:
    put(tmp_path / "outside" / "inner", b"cookie jar")
    (work / "downloads").rmdir()
    (work / "downloads").symlink_to(tmp_path / "outside")
    found = Zip(work, task=TASK)
    assert found.left_out() == {"downloads": "not_a_file"}
    assert b"cookie jar" not in found.file.getvalue()


def test_a_file_that_became_a_link_or_a_pipe_after_the_look_is_not_read(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = put(tmp_path / "secret", b"cookie jar")
    swapped, piped = put(work / "downloads" / "swapped", b"fine"), put(work / "downloads" / "piped", b"fine")
    into = packing._Look.into

    def then_swap(look: Any, way: tuple[str, ...]) -> None:
        into(look, way)
        if way == ("downloads",):
            swapped.unlink()
            swapped.symlink_to(secret)
            piped.unlink()
            os.mkfifo(piped)

    monkeypatch.setattr(packing._Look, "into", then_swap)
    found = Zip(work, task=TASK)
    assert found.left_out() == {"downloads/swapped": "unreadable", "downloads/piped": "unreadable"}


def test_names_that_would_lead_an_unpacker_astray_are_made_harmless(work: Path) -> None:
    put(work / "downloads" / "..\\..\\evil\n.exe", b"1")
    put(work / "downloads" / ".._.._evil_.exe", b"2")
    put(Path(os.fsdecode(os.fsencode(work / "downloads") + b"/b\xff.txt")), b"3")
    names = Zip(work).names()
    assert len(set(names)) == 4
    assert {"downloads/.._.._evil_.exe", "downloads/b\ufffd.txt", "manifest.json"} < set(names)
    assert not any("\\" in name or "\n" in name for name in names)


def test_files_come_no_more_when_the_time_is_over_but_the_task_does(work: Path) -> None:
    put(work / "downloads" / "late", b"late")
    found = Zip(work, task=TASK, until=time.monotonic() - 1)
    assert found.names() == ["task.json", "manifest.json"]
    assert found.left_out() == {"downloads/late": "out_of_time"}


def test_folders_are_entered_to_a_bound_and_dates_may_be_anything(work: Path) -> None:
    put(work / "downloads" / "a" / "b" / "c" / "d" / "deep", b"deep")
    put(work / "downloads" / "a" / "ancient", b"ancient", 0)
    put(work / "downloads" / "a" / "to come", b"to come", 1e11)
    found = Zip(work)
    assert set(found.names()) == {"downloads/a/ancient", "downloads/a/to come", "manifest.json"}
    assert found.left_out() == {"downloads/a/b/c/d": "too_deep"}


def test_a_crowd_of_files_is_bounded(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_MOST_FILES", 3)
    for number in range(10):
        put(work / "downloads" / str(number), b"x")
    found = Zip(work)
    assert len(found.manifest["files"]) == 3
    assert set(found.left_out().values()) == {"too_many"}
    assert len(found.left_out()) == 3
    assert found.manifest["moreLeftOut"] is True


# ---- the open task ---------------------------------------------------------------------------------------------------


def opened(history: list[Any]) -> OpenTask:
    from datetime import UTC, datetime

    agent = SimpleNamespace(history=SimpleNamespace(history=history))
    return OpenTask("do", RunTask(task="order tea", max_steps=9), datetime.fromtimestamp(NOON, UTC), agent)


def step(number: int, *, extracted: str | None = None, url: str = "http://shop/") -> Any:
    action = SimpleNamespace(model_dump=lambda **_: {"navigate": {"url": url}})
    return SimpleNamespace(
        metadata=SimpleNamespace(step_number=number, step_start_time=NOON, step_end_time=NOON + 1),
        state=SimpleNamespace(url=url, title="Tea shop"),
        model_output=SimpleNamespace(
            current_state=SimpleNamespace(next_goal="look", memory="nothing yet"), action=[action]
        ),
        result=[SimpleNamespace(extracted_content=extracted, long_term_memory=None, error=None)],
    )


def told(task: OpenTask) -> dict[str, Any]:
    from datetime import UTC, datetime

    return task.told(datetime.fromtimestamp(NOON + 5, UTC))


def test_an_open_task_tells_its_steps_addresses_and_last_results() -> None:
    found = told(opened([step(1), step(2, extracted="White tea, 9 EUR", url="http://shop/order")]))
    assert (found["commandId"], found["task"], found["maxSteps"]) == ("do", "order tea", 9)
    assert [each["number"] for each in found["steps"]] == [1, 2]
    assert found["urls"] == ["http://shop/", "http://shop/order"]
    assert found["lastResults"] == [{"extracted": "White tea, 9 EUR"}]
    assert found["steps"][0]["actions"] == [{"navigate": {"url": "http://shop/"}}]
    assert found["beganAt"] < found["steps"][0]["endedAt"] < found["stoppedAt"]


def test_an_open_task_without_a_step_yet_is_told_all_the_same() -> None:
    task = opened([])
    task.agent = None
    assert told(task)["steps"] == []
    assert told(task)["task"] == "order tea"


def test_of_a_task_that_extracted_very_much_the_latest_steps_are_kept() -> None:
    found = told(opened([step(number, extracted="ä" * 20_000) for number in range(1, 101)]))
    assert len(json.dumps(found)) <= MOST_BYTES
    assert found["steps"][-1]["number"] == 100
    assert found["stepsLeftOut"] == 100 - len(found["steps"]) > 0


def test_steps_that_cannot_be_read_do_not_cost_the_task() -> None:
    found = told(opened([object()]))
    assert found["task"] == "order tea"
    assert "could not be read" in found["detail"]
