"""The files of a dataset: finding its shards, reading pieces of one without a position of its own
(so that forked processes and threads may share a descriptor), and writing a file that appears
whole or not at all."""

import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from common.data.faults import BadSample
from common.errors import UserError

SUFFIXES = (".tar", ".jsonl")
FINGERPRINTED_BYTES = 2**16  # at either end of a shard


class ShardFile:
    """A shard opened for reading; closed when the last reader lets go of it.

    Raises:
        BadSample: the file system refuses (`unreadable`).
    """

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(path, error.strerror) from error

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes.

        Raises:
            BadSample: the file system refuses, or the file ends before (`unreadable`).
        """
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise _unreadable(self._path, error.strerror) from error
        if len(data) != size:
            raise _unreadable(self._path, f"{len(data)} of {size} bytes at {offset}")
        return data

    def fingerprint(self) -> str:
        """Of the size and both ends: cheap, and different for all but contrived changes.

        Raises:
            BadSample: the file system refuses (`unreadable`).
        """
        size = os.fstat(self._descriptor).st_size
        length = min(size, FINGERPRINTED_BYTES)
        ends = self.read(0, length) + self.read(size - length, length)
        return f"{size}-{blake2b(ends, digest_size=16).hexdigest()}"

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound above, since modules may be gone when the interpreter ends.
        if self._descriptor >= 0:
            close(self._descriptor)


def find_shards(root: Path) -> dict[str, int]:
    """Size in bytes of every shard at any depth, by its relative path, in order.

    Hidden files and folders, and what is beneath linked folders, are not looked at.

    Raises:
        UserError: there is no such folder, or no shard in it.
    """
    if not root.is_dir():
        raise UserError(f"dataset folder {root} does not exist; check the path")
    sizes = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                path = Path(folder, name)
                sizes[path.relative_to(root).as_posix()] = _size(path)
    if not sizes:
        raise UserError(f"folder {root} holds no shard (*.tar or *.jsonl); check the path")
    return dict(sorted(sizes.items()))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a hidden name beside `path`, then give it its name.

    Raises:
        UserError: the file system refuses.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with hidden.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror}; check the folder's permissions and space"
        ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(
            f"cannot read shard {path}: {error.strerror}; repair it or remove it"
        ) from error


def _unreadable(path: Path, reason: str | None) -> BadSample:
    return BadSample("unreadable", f"cannot read shard {path}: {reason}; check the disk")
