"""No floor of ours lies below a known vulnerability, and what is installed is no older than it."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"\| ([\w.-]+) \| ((?:CVE|GHSA)[^|]*) \| ([\d.]+) \| ([\d.]+) \|")


def floors() -> dict[str, list[Version]]:
    """Of every package, wherever pyproject.toml asks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    found: dict[str, list[Version]] = {}
    for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
        wanted = Requirement(text)
        least = [Version(part.version) for part in wanted.specifier if part.operator == ">="]
        found.setdefault(wanted.name, []).extend(least or [Version("0")])
    return found


def test_floors_lie_at_or_above_every_listed_fix() -> None:
    rows = LINE.findall((ROOT / "SECURITY.md").read_text())
    known = floors()
    assert len(rows) == (ROOT / "SECURITY.md").read_text().count("\n| ") - 2
    for package, advisory, fixed, told in rows:
        assert set(known[package]) == {Version(told)}, f"{package}: {known[package]}"
        assert Version(told) >= Version(fixed), (package, advisory)


def test_what_is_installed_reaches_the_floors() -> None:
    for package, wanted in floors().items():
        try:
            assert Version(version(package)) >= max(wanted), package
        except PackageNotFoundError:
            continue  # of an extra


def test_accelerate_s_loaders_of_checkpoints_are_never_called() -> None:
    sources = [
        file for room in ("common", "flamingo", "flare") for file in (ROOT / room).rglob("*.py")
    ]
    assert not [file for file in sources if "load_checkpoint_" in file.read_text()]
