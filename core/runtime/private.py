"""Files that only their owner reads, written whole or not at all."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Replace `path`, mode 600. What is there stays until the new text is all written. Raises `OSError`."""
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)
