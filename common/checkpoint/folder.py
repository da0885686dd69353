"""Folders of checkpoints: complete or absent, checked by digest, newest good one first.

`step_00000400/` is written under another name, flushed to the disk and renamed, so that a folder of
that name is whole whatever killed the writer. `manifest.json` in it holds size and SHA-256 of every
file; a folder that does not match its manifest is damaged and never read.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from common.checkpoint.digests import file_digest
from common.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
COMPLETE = re.compile(r"step_(\d{8})")


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing or not what was written; the message names it."""


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return checkpoints / f"step_{step:08d}"


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Complete checkpoints, newest first; their content is not checked."""
    if not checkpoints.is_dir():
        return []
    return sorted((p for p in checkpoints.iterdir() if COMPLETE.fullmatch(p.name)), reverse=True)


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, add the manifest, and make it appear at once under its name."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write(unfinished)
    files = sorted(path for path in unfinished.iterdir())
    entries = {p.name: {"bytes": p.stat().st_size, "sha256": file_digest(p)} for p in files}
    (unfinished / MANIFEST).write_text(json.dumps(entries, indent=1))
    for path in [*files, unfinished / MANIFEST, unfinished]:
        flush_to_disk(path)
    if target.exists():  # The same step once more, e.g. after a fall-back to an older checkpoint.
        shutil.rmtree(target)
    unfinished.rename(target)
    flush_to_disk(target.parent)


def flush_to_disk(path: Path) -> None:
    """Return only when a file's bytes, or a folder's names, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_folder(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        DamagedCheckpointError: naming the first file that is missing, cut or changed.
    """
    manifest = folder / MANIFEST
    try:
        entries = json.loads(manifest.read_text())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{manifest} is unreadable ({error})") from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpointError(f"{path} is missing")
        if path.stat().st_size != size:
            raise DamagedCheckpointError(f"{path} has {path.stat().st_size} bytes, wrote {size}")
        if file_digest(path) != digest:
            raise DamagedCheckpointError(f"{path} was changed after it was written (SHA-256)")


def newest_good_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that matches its manifest, None when there is none at all.

    Damaged ones on the way are renamed to `damaged_step_...`, with a warning that names the file.

    Raises:
        UserError: when there are checkpoints and every one is damaged.
    """
    found = list_checkpoints(checkpoints)
    for folder in found:
        try:
            verify_folder(folder)
        except DamagedCheckpointError as error:
            aside = folder.with_name(f"damaged_{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            logger.warning("damaged checkpoint set aside as %s: %s", aside, error)
        else:
            return folder
    if found or any(checkpoints.glob("damaged_step_*")):
        raise UserError(
            f"every checkpoint in {checkpoints} is damaged; restore one from a backup, "
            "or remove the run folder to start from the beginning"
        )
    return None


def remove_old_checkpoints(checkpoints: Path, *, newest: int) -> None:
    """Keep that many of the newest checkpoints, remove the others and unfinished folders."""
    for folder in [*list_checkpoints(checkpoints)[newest:], *checkpoints.glob(".*.unfinished")]:
        shutil.rmtree(folder)
