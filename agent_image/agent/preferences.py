"""What Chromium reads from its own file before anything else, and no switch says."""

import json
import os
from pathlib import Path
from typing import Any

_FILE = "Local State"


def set_file_dialogs(profile: Path, allowed: bool) -> None:
    """Whether the next browser on this profile opens file dialogs; to the page a denied one is one that was cancelled.

    What else the file says stays. One that cannot be read is begun anew, as Chromium does. Raises `OSError`.
    """
    path = profile / _FILE
    try:
        state: Any = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        state = {}
    if not isinstance(state, dict):
        state = {}
    dialogs = state.get("select_file_dialogs")
    state["select_file_dialogs"] = {**(dialogs if isinstance(dialogs, dict) else {}), "allowed": allowed}
    fresh = profile / f"{_FILE}.fresh"
    fresh.write_text(json.dumps(state), encoding="utf-8")
    os.replace(fresh, path)
