"""What a run writes beside tensors: a file is whole or as it was before, and a disk that is full,
broken or closed to us is told in one line that names the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from common.errors import UserError


@contextmanager
def disk_faults_told(path: Path, *, action: str = "written") -> Iterator[None]:
    """Around what is done to a file or folder of a run.

    Raises:
        UserError: the operating system refuses.
    """
    try:
        yield
    # The library of weights has an exception of its own for the system's.
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} was not {action} ({reason}); finished checkpoints are kept: "
            "look after the disk, then run again"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once: whatever fails or kills us, it is the old one or the new one.

    Raises:
        UserError: it could not be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with disk_faults_told(path):
        try:
            unfinished.write_text(text, encoding="utf-8")
            flush_to_disk(unfinished)
            os.replace(unfinished, path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def flush_to_disk(path: Path) -> None:
    """Return only when a file's bytes, or a folder's names, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
