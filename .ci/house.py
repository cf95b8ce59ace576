"""House rules that no other tool holds: tracked files, module size, docstrings, locks in step with pyproject.toml."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
WARN_LINES, MOST_LINES = 300, 400
MOST_BYTES = 1 << 20
LOCKS = {"control": ("control", "dev"), "server": ("control",), "agent": ("agent",)}
FORBIDDEN = re.compile(
    r"(^|/)(uv\.lock|node_modules|\.venv[^/]*|\.berth|__pycache__|\.env)(/|$)"
    r"|\.(png|jpe?g|gif|webp|ico|pdf|zip|gz|xz|whl|so|pyc|db|sqlite|pem|key)$"
)
ADDRESS = re.compile(r"https?://|file:|git\+|--(extra-)?index-url|--find-links|\"resolved\"")
# One requirement of a lock: name, exact version, and the lines below it that say who asked for it.
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;]+)", re.MULTILINE)


def tracked() -> list[str]:
    """Files that are, or would be, in git, relative to the root; all Python files where there is no git to ask."""
    ask = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(ask, cwd=ROOT, capture_output=True, timeout=30)
    if listing.returncode:
        folders = ["activities", "agent_image", "api", "core", "k8s", "temporal", "tests", "workflows"]
        return [str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted({name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()})


def files(names: list[str]) -> Iterator[str]:
    for name in names:
        content = (ROOT / name).read_bytes()
        if FORBIDDEN.search(name):
            yield f"{name}: such a file does not belong into git"
        elif b"\0" in content[:8192]:
            yield f"{name}: a binary file"
        elif len(content) > MOST_BYTES:
            yield f"{name}: {len(content)} bytes, at most {MOST_BYTES}"


def modules(names: list[str]) -> Iterator[str]:
    for name in names:
        if not name.endswith(".py"):
            continue
        text = (ROOT / name).read_text()
        lines = text.count("\n")
        if lines > MOST_LINES:
            yield f"{name}: {lines} lines, at most {MOST_LINES}; split it by noun"
        elif lines > WARN_LINES:
            print(f"        {name}: {lines} lines, more than {WARN_LINES}")
        if text.strip() and ast.get_docstring(ast.parse(text, name)) is None:
            yield f"{name}: no docstring that says what the module is"


def locks() -> Iterator[str]:
    """Every declared dependency is locked at a version in its range, and nothing is locked that nobody declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for lock, extras in LOCKS.items():
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        found = list(PINNED.finditer(text))
        ends = [match.start() for match in found[1:]] + [len(text)]
        pinned = {canonicalize_name(m[1]): m[2] for m in found}
        blocks = {canonicalize_name(m[1]): text[m.end() : end] for m, end in zip(found, ends, strict=True)}
        asked = {name for name, block in blocks.items() if "berth (pyproject.toml)" in block}
        lines = list(project["dependencies"])
        for extra in extras:
            lines += project["optional-dependencies"][extra]
        declared = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
        for name, requirement in declared.items():
            if name not in asked:
                yield f"requirements/{lock}.txt lacks {name}: run make lock"
            elif not requirement.specifier.contains(pinned[name], prereleases=True):
                yield f"requirements/{lock}.txt has {name} {pinned[name]}, not {requirement.specifier}: run make lock"
        for name in sorted(asked - declared.keys()):
            yield f"requirements/{lock}.txt has {name}, which pyproject.toml no longer asks for: run make lock"


def addresses() -> Iterator[str]:
    for path in [*sorted((ROOT / "requirements").glob("*.txt")), ROOT / "package-lock.json"]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if ADDRESS.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: a download address in a lock"


def main() -> int:
    names = tracked()
    wrong = [*files(names), *modules(names), *locks(), *addresses()]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
