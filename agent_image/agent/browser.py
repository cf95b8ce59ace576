"""Chromium: started by us, sandboxed, reached over a pipe only, and closed so that its cookies are kept."""

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from agent_image.agent import family, part, preferences
from agent_image.agent.journal import log
from agent_image.agent.part import Part, PartFailed
from agent_image.agent.pipe import CdpError, CdpPipe
from core.domain.environment import BrowserSettings

_PROGRAMS = ("/usr/lib/chromium/chromium", "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
_START_SECONDS = 45
_CLOSE_SECONDS = 10
_BURY_SECONDS = 5

# Each of these switches something off that costs memory, opens connections of its own, or draws over the page.
_FEATURES_OFF = (
    "Translate", "MediaRouter", "OptimizationHints", "AutofillServerCommunication", "SpareRendererForSitePerProcess",
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "Prerender2", "HttpsUpgrades", "DialMediaRouteProvider",
    "InterestFeedContentSuggestions", "CertificateTransparencyComponentUpdater", "GlobalMediaControls",
)  # fmt: skip
_FLAGS = (
    "--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-default-apps", "--disable-breakpad", "--password-store=basic", "--use-mock-keychain",
    "--disable-search-engine-choice-screen", "--hide-crash-restore-bubble", "--disable-infobars",
    "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
    "--disable-background-timer-throttling", "--disable-gpu", "--disable-extensions", "--disable-domain-reliability",
    "--no-pings", "--metrics-recording-only", "--noerrdialogs", "--start-maximized", "--window-position=0,0",
    "--test-type=webdriver", "--disable-client-side-phishing-detection",
    "--disable-dev-shm-usage",
    # What leaves the browser leaves through our gateway: no UDP of its own, no names asked by itself.
    "--disable-quic", "--force-webrtc-ip-handling-policy=disable_non_proxied_udp", "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip

# Chromium reads descriptor 3 and writes 4. Its score makes it the first to go when memory runs out; a machine that
# does not allow that starts it all the same.
_SCRIPT = '{ echo 1000 > /proc/self/oom_score_adj; } 2>/dev/null; exec "$@" 3<&"$IN" 4>&"$OUT"'


def program() -> str:
    """The browser to start: CHROMIUM, or where distributions put it (not the wrapper, which adds flags)."""
    asked = os.environ.get("CHROMIUM")
    if asked:
        if not os.access(asked, os.X_OK):
            raise PartFailed(f"CHROMIUM names {asked}, which is no program here", permanent=True)
        return asked
    for path in _PROGRAMS:
        if Path(path).exists():
            return path
    raise PartFailed("there is no Chromium here; install it or set CHROMIUM to its program file", permanent=True)


@dataclass
class Browser:
    """One Chromium on one profile folder. `file_dialogs`: whether whoever has the mouse may look through our files."""

    settings: BrowserSettings
    profile: Path
    work: Path
    pipe: CdpPipe
    file_dialogs: bool
    part: Part | None = None
    version: str = ""

    async def start(self, env: dict[str, str], proxy_port: int) -> None:
        """Return when CDP answers, else raise `PartFailed` with what Chromium said."""
        for stale in self.profile.glob("Singleton*"):
            stale.unlink(missing_ok=True)  # left by a kill; from another host name Chromium would refuse to start
        preferences.set_file_dialogs(self.profile, self.file_dialogs)
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        try:
            self.part = await part.start(
                "browser",
                ["bash", "-c", _SCRIPT, "chromium", *self._command(proxy_port)],
                env={**env, "IN": str(to_read), "OUT": str(from_write)},
                cwd=self.work,
                pass_fds=(to_read, from_write),
            )
        finally:
            os.close(to_read)
            os.close(from_write)
        await self.pipe.open(from_read, to_write)
        try:
            answer = await self.pipe.call("Browser.getVersion", timeout=_START_SECONDS)
        except (CdpError, TimeoutError) as error:
            await self.part.wait(1)
            words = self.part.last_words()
            raise PartFailed(
                f"Chromium does not start ({error}): {words[-800:]}",
                permanent="No usable sandbox" in words or "without --no-sandbox is not supported" in words,
                killed=self.part.killed,
            ) from error
        self.version = answer.get("product", "")

    def _command(self, proxy_port: int) -> list[str]:
        sandbox = [] if self.settings.sandbox else ["--no-sandbox"]
        return [
            program(),
            f"--user-data-dir={self.profile}",
            "--remote-debugging-pipe",
            f"--window-size={self.settings.width},{self.settings.height}",
            f"--proxy-server=http://127.0.0.1:{proxy_port}",
            f"--disable-features={','.join(_FEATURES_OFF)}",
            *_FLAGS,
            *sandbox,
            *self.settings.flags,
            "about:blank",
        ]

    async def alive(self) -> bool:
        """True when the browser answers within 3 s."""
        try:
            await self.pipe.call("Browser.getVersion", timeout=3)
        except (CdpError, TimeoutError):
            return False
        return True

    async def bury(self, keep: set[int]) -> str:
        """Leave nothing of a browser that has ended, so that the next one has the profile alone; its last words.

        Kills all that comes from this process but `keep` and theirs. Raises `PartFailed` when something stays.
        """
        await family.end_all_but(keep, _BURY_SECONDS)
        await self.pipe.close()
        if self.part is None:
            return ""
        await self.part.silent(1)
        return self.part.last_words()

    async def close(self) -> None:
        """Close over CDP: only that writes cookies of the last seconds to the profile. Kills after 10 s."""
        if self.part is None:
            return
        if self.part.running:
            with contextlib.suppress(CdpError, TimeoutError):
                await self.pipe.call("Browser.close", timeout=5)
            if not await self.part.wait(_CLOSE_SECONDS):
                log.warning("browser.close_refused", seconds=_CLOSE_SECONDS)
        await self.part.stop(0 if self.part.running else 1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.pipe.closed.wait(), 1)
