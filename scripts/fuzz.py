"""Searches for inputs that our own parsers answer with a traceback, guided by coverage.

    python -m venv /somewhere/fuzz && /somewhere/fuzz/bin/pip install -e . atheris
    /somewhere/fuzz/bin/python scripts/fuzz.py tar --seconds 60
    /somewhere/fuzz/bin/python scripts/fuzz.py all --seconds 60 --folder runs/fuzz

Targets: tar (headers of an archive), wet (a crawl), index (of a shard), manifest (of a checkpoint),
json (of a sample). atheris is no dependency of the project. What was found lies in the folder, by
target; exit status 1 when something was.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Parse = Callable[[Path], object]
LONGEST = 20_000  # bytes of an input


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs each target in a process of its own: libFuzzer ends the one that it is in."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, str(ROOT))  # a script finds no modules but those of its own folder
    if words[:1] == ["--here"]:
        _fuzz(words[1], seconds=int(words[2]), folder=Path(words[3]))
    # Not before: the process that fuzzes must be the first to import what it follows.
    from common.training.options import OneLineParser  # noqa: PLC0415 -- as said

    parser = OneLineParser(description="Searches for inputs that break our parsers.")
    parser.add_argument("target", choices=(*TARGETS, "all"))
    parser.add_argument("--seconds", type=int, default=60, help="of each target (default: 60)")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"), help="of the findings")
    chosen = parser.parse_args(words)
    if chosen.seconds < 1:
        parser.error(f"--seconds {chosen.seconds} is too short; give at least 1")
    if chosen.folder.exists() and not chosen.folder.is_dir():
        parser.error(f"--folder {chosen.folder} is a file; give a folder")
    if find_spec("atheris") is None:
        print("error: atheris is not installed; pip install atheris", file=sys.stderr)
        return 2
    names = TARGETS if chosen.target == "all" else (chosen.target,)
    failed = [name for name in names if _run(name, chosen.seconds, chosen.folder)]
    print(f"found: {', '.join(failed)}" if failed else "nothing was found")
    return int(bool(failed))


def _run(name: str, seconds: int, folder: Path) -> int:
    words = ["--here", name, str(seconds), str(folder)]
    return subprocess.run([sys.executable, __file__, *words], check=False).returncode


def _fuzz(name: str, *, seconds: int, folder: Path) -> None:
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415 -- no dependency

    with atheris.instrument_imports(include=["common", "tarfile"]):
        parse = TARGETS[name]()
    findings = folder / name
    findings.mkdir(parents=True, exist_ok=True)
    file = Path(tempfile.mkdtemp()) / "input"

    def once(data: bytes) -> None:
        file.write_bytes(data)
        parse(file)

    corpus = Path(tempfile.mkdtemp())
    (corpus / "whole").write_bytes(_whole(name))
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=5"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={findings}/", str(corpus)], once)
    atheris.Fuzz()


def _whole(name: str) -> bytes:
    """A good input, to begin with: from nothing no checksum of an archive would ever be found."""
    if name == "tar":
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member, text in {"a.txt": b"A text.", "a.json": b"{}"}.items():
                info = tarfile.TarInfo(member)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text))
        return buffer.getvalue()
    if name == "index":
        buffer = io.BytesIO()
        array = np.zeros(2, np.uint8)
        np.savez(buffer, header=array, samples=array, members=array)
        return buffer.getvalue()
    return _WHOLE[name]


_WHOLE = {
    "wet": b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a\r\n"
    b"Content-Length: 7\r\n\r\nA text.\r\n\r\n",
    "manifest": b'{"state.json": {"bytes": 7, "sha256": "' + b"0" * 64 + b'"}}',
    "json": b'{"texts": ["a", null, 1.5e3], "images": ["0.png"]}',
}


def _tar() -> Parse:
    from common.data.shards.tar import scan_tar  # noqa: PLC0415 -- to be instrumented

    return scan_tar


def _wet() -> Parse:
    from common.data.ingest.wet import read_pages  # noqa: PLC0415 -- as above

    return lambda file: [*read_pages(file)]


def _index() -> Parse:
    from common.data.shards.index import load_index  # noqa: PLC0415 -- as above

    return load_index


def _manifest() -> Parse:
    from common.checkpoint.folder import DamagedCheckpointError, verify_folder  # noqa: PLC0415 -- same

    def parse(file: Path) -> None:
        (file.parent / "step").mkdir(exist_ok=True)
        (file.parent / "step" / "manifest.json").write_bytes(file.read_bytes())
        try:
            verify_folder(file.parent / "step")
        except DamagedCheckpointError:
            return

    return parse


def _json() -> Parse:
    from common.data.faults import BadSample  # noqa: PLC0415 -- to be instrumented
    from common.data.text_decoding import decode_json  # noqa: PLC0415 -- same

    def parse(file: Path) -> None:
        try:
            decode_json(file.read_bytes(), name="input")
        except BadSample:
            return

    return parse


TARGETS: dict[str, Callable[[], Parse]] = {
    "tar": _tar,
    "wet": _wet,
    "index": _index,
    "manifest": _manifest,
    "json": _json,
}


if __name__ == "__main__":
    sys.exit(main())
