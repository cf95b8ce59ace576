"""The screen: Xtigervnc (X server and VNC server in one) on a unix socket, and a small window manager."""

import asyncio
import contextlib
import os
import secrets
from pathlib import Path

from agent_image.agent import part
from agent_image.agent.part import Part, PartFailed

_START_SECONDS = 20


class Desktop:
    """A running screen. `display` and `authority` let a program draw on it, `vnc` lets a viewer see it."""

    def __init__(self, work: Path, sockets: Path, width: int, height: int) -> None:
        self._work = work
        self._size = f"{width}x{height}"
        self.vnc = sockets / "vnc.sock"
        self.authority = work / "xauthority"
        self.display = ""
        self.server: Part | None = None
        self.manager: Part | None = None

    async def start(self, env: dict[str, str]) -> None:
        """Return when programs can draw and viewers can connect, else raise `PartFailed`."""
        write_cookie(self.authority)
        with contextlib.suppress(FileNotFoundError):
            self.vnc.unlink()
        read_end, write_end = os.pipe()
        try:
            self.server = await part.start("screen", self._server_command(write_end), env=env, cwd=self._work,
                                           pass_fds=(write_end,))  # fmt: skip
        finally:
            os.close(write_end)
        self.display = f":{await _display_number(read_end, self.server)}"
        self.manager = await part.start(
            "window manager",
            ["matchbox-window-manager", "-use_titlebar", "no"],
            env=self.environment(env),
            cwd=self._work,
        )
        await self._accepts()

    def environment(self, env: dict[str, str]) -> dict[str, str]:
        return {**env, "DISPLAY": self.display, "XAUTHORITY": str(self.authority)}

    def parts(self) -> list[Part]:
        return [p for p in (self.manager, self.server) if p is not None]

    async def stop(self) -> None:
        for running in self.parts():
            await running.stop(3)

    async def _accepts(self) -> None:
        for _ in range(_START_SECONDS * 50):
            try:
                _, writer = await asyncio.open_unix_connection(str(self.vnc))
            except OSError:
                if self.server is None or not self.server.running:
                    break
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
        raise PartFailed(f"the VNC socket does not open: {self.server.last_words() if self.server else ''}")

    def _server_command(self, display_fd: int) -> list[str]:
        # GLX would load a whole software renderer (50 MiB) that nobody draws with.
        # Without "-nolisten local" on purpose: the abstract socket is how servers that start together see that a
        # display number is taken. Who may draw is decided by the cookie.
        return [
            "Xtigervnc", "-displayfd", str(display_fd), "-geometry", self._size, "-depth", "24", "-nolisten", "tcp",
            "-rfbport", "-1", "-rfbunixpath", str(self.vnc), "-rfbunixmode", "0600", "-SecurityTypes", "None",
            "-AlwaysShared", "-AcceptSetDesktopSize=0", "-noreset", "-extension", "GLX", "-auth", str(self.authority),
        ]  # fmt: skip


def write_cookie(path: Path) -> None:
    """An X authority file with one fresh cookie that is good for any display (family "wild")."""

    def counted(data: bytes) -> bytes:
        return len(data).to_bytes(2, "big") + data

    entry = counted(b"") + counted(b"") + counted(b"MIT-MAGIC-COOKIE-1") + counted(secrets.token_bytes(16))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(b"\xff\xff" + entry)


async def _display_number(read_end: int, server: Part) -> int:
    """The number that the X server writes to its `-displayfd` once it accepts programs."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb"))
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await reader.readline()
    except TimeoutError:
        raise PartFailed(f"the X server said nothing for {_START_SECONDS} s: {server.last_words()}") from None
    finally:
        transport.close()
    if not line.strip().isdigit():
        await server.wait(2)
        raise PartFailed(f"the X server ended while starting: {server.last_words()}")
    return int(line)
