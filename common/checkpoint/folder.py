"""Folders of checkpoints: complete or absent, checked by digest, newest good one first.

`step_00000400/` is written under another name, flushed to the disk and renamed, so that a folder of
that name is whole whatever killed its writers. `manifest.json` in it holds size and SHA-256 of
every file; a folder that does not match its manifest is damaged and never read.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from common.checkpoint.digests import file_digest
from common.checkpoint.ranks import Ranks
from common.checkpoint.writing import disk_faults_told, flush_to_disk
from common.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
COMPLETE = re.compile(r"step_(\d{8})")


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing or not what was written; the message names it."""


@dataclass(frozen=True)
class WrittenFile:
    """What the manifest says of a file."""

    bytes: int
    sha256: str


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return checkpoints / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a complete checkpoint."""
    return int(folder.name.removeprefix("step_"))


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Complete checkpoints, newest first; their content is not checked."""
    if not checkpoints.is_dir():
        return []
    return sorted((p for p in checkpoints.iterdir() if COMPLETE.fullmatch(p.name)), reverse=True)


def unfinished_folder(target: Path) -> Path:
    """Where the files of a checkpoint are until it is whole."""
    return target.with_name(f".{target.name}.unfinished")


def begin_folder(target: Path) -> Path:
    """An empty unfinished folder, whatever an earlier attempt left there."""
    unfinished = unfinished_folder(target)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def seal_file(path: Path) -> WrittenFile:
    """Flush a file to the disk and digest it."""
    flush_to_disk(path)
    return WrittenFile(path.stat().st_size, file_digest(path))


def publish_folder(target: Path, files: Mapping[str, WrittenFile]) -> None:
    """Write the manifest of sealed files and make the folder appear at once under its name."""
    unfinished = unfinished_folder(target)
    entries = {name: asdict(file) for name, file in files.items()}
    (unfinished / MANIFEST).write_text(json.dumps(entries, indent=1))
    flush_to_disk(unfinished / MANIFEST)
    flush_to_disk(unfinished)
    # The same step once more, e.g. after a fall-back to an older checkpoint.
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    try:
        unfinished.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    flush_to_disk(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def discard_folder(target: Path) -> None:
    """Drop what was written of a checkpoint that will not be finished: the disk may be full."""
    shutil.rmtree(unfinished_folder(target), ignore_errors=True)


def verify_folder(folder: Path, ranks: Ranks | None = None) -> None:
    """Compare every file with the manifest; several ranks share the files, and the answer.

    Raises:
        DamagedCheckpointError: naming the first file that is missing, cut or changed.
    """
    ranks = ranks or Ranks()

    def verify_share() -> None:
        expected = _read_manifest(folder / MANIFEST)
        _refuse_unlisted(folder, expected)
        # Largest first and then in turns, so that the shares are about equal.
        names = sorted(expected, key=lambda name: (-expected[name].bytes, name))
        for name in names[ranks.rank :: ranks.num_ranks]:
            _verify_file(folder / name, expected[name])

    ranks.together(verify_share)


def newest_good_checkpoint(
    checkpoints: Path, ranks: Ranks | None = None, *, before: int | None = None
) -> Path | None:
    """The newest checkpoint that matches its manifest, None when there is none at all.

    With `before`, of the checkpoints of earlier steps.

    Damaged ones on the way are renamed to `damaged_step_...`, with a warning that names the file.
    Ranks that give `ranks` verify together and get the same answer; all of them must call.

    Raises:
        UserError: when there are checkpoints and every one is damaged.
    """
    ranks = ranks or Ranks()
    found = ranks.on_main(lambda: list_checkpoints(checkpoints))
    for folder in found:
        if before is not None and step_of(folder) >= before:
            continue
        try:
            verify_folder(folder, ranks)
        except DamagedCheckpointError as error:
            ranks.on_main(partial(_set_aside, folder, error))
        else:
            return folder
    if before is None and ranks.on_main(lambda: next(checkpoints.glob("damaged_step_*"), None)):
        raise UserError(
            f"every checkpoint in {checkpoints} is damaged; restore one from a backup, "
            "or remove the run folder to start from the beginning"
        )
    return None


def remove_old_checkpoints(checkpoints: Path, *, newest: int) -> None:
    """Keep that many of the newest checkpoints, remove the others and unfinished folders."""
    leftovers = [*checkpoints.glob(".*.unfinished"), *checkpoints.glob(".*.replaced")]
    for folder in [*list_checkpoints(checkpoints)[newest:], *leftovers]:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            # It takes room and nothing else: the next removal tries again.
            logger.warning("%s could not be removed and is kept (%s)", folder, error.strerror)


def remove_checkpoints_from(checkpoints: Path, step: int) -> None:
    """Remove the checkpoints of a step and those behind it.

    Raises:
        UserError: one could not be removed; a run must not go on from it.
    """
    for folder in list_checkpoints(checkpoints):
        if step_of(folder) >= step:
            with disk_faults_told(folder, action="removed"):
                shutil.rmtree(folder)


def _read_manifest(path: Path) -> dict[str, WrittenFile]:
    try:
        entries = json.loads(path.read_text(), object_pairs_hook=_refuse_repeated_names)
        return {name: WrittenFile(int(e["bytes"]), e["sha256"]) for name, e in entries.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is unreadable ({error})") from error


def _refuse_repeated_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A flipped bit that makes one name another's would hide a file from verification."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _refuse_unlisted(folder: Path, expected: Mapping[str, WrittenFile]) -> None:
    """A manifest that has lost an entry would leave its file unverified."""
    for path in sorted(folder.iterdir()):
        # Hidden files are the file system's own.
        if path.name not in {*expected, MANIFEST} and not path.name.startswith("."):
            raise DamagedCheckpointError(f"{path} is not in {MANIFEST}")


def _verify_file(path: Path, expected: WrittenFile) -> None:
    if not path.is_file():
        raise DamagedCheckpointError(f"{path} is missing")
    size = path.stat().st_size
    if size != expected.bytes:
        raise DamagedCheckpointError(f"{path} has {size} bytes, wrote {expected.bytes}")
    if file_digest(path) != expected.sha256:
        raise DamagedCheckpointError(f"{path} was changed after it was written (SHA-256)")


def _set_aside(folder: Path, error: DamagedCheckpointError) -> None:
    aside = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with disk_faults_told(folder, action="set aside, though damaged"):
        folder.rename(aside)
    logger.warning("damaged checkpoint set aside as %s: %s", aside, error)
