"""A disk that fails, at the boundary between Python and the operating system: `open`, `write`,
`mkdir`, `rename` and `fsync` of the chosen file, and the writer of safetensors, which is not
Python's. Nothing of the project is replaced. A full disk stays full while entered; every other
fault happens once."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
from safetensors import SafetensorError

Fault = Literal["full", "broken", "short", "forbidden", "rename", "fsync"]
ERRORS = {"full": errno.ENOSPC, "short": errno.ENOSPC, "forbidden": errno.EACCES}
WRITES = ("full", "broken", "short")


class FaultyDisk:
    """The `nth` operation on a file whose path ends like `name`, inside `root`, fails."""

    def __init__(self, root: Path, fault: Fault, name: str, *, nth: int = 1) -> None:
        self.root, self.fault, self.name, self.nth = str(root), fault, name, nth
        self.met = 0
        self.has_failed = False
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "FaultyDisk":
        real = {name: getattr(os, name) for name in ("rename", "replace", "mkdir", "fsync")}
        for module in (io, builtins):
            self._patch.setattr(module, "open", self._open(open))
        for name in ("rename", "replace"):
            self._patch.setattr(os, name, self._renaming(real[name]))
        self._patch.setattr(os, "mkdir", self._mkdir(real["mkdir"]))
        self._patch.setattr(os, "fsync", self._fsync(real["fsync"]))
        serialize = safetensors.torch.serialize_file
        self._patch.setattr(safetensors.torch, "serialize_file", self._serialize(serialize))
        return self

    def __exit__(self, *ended: object) -> None:
        self._patch.undo()

    def error(self, path: str) -> OSError:
        number = ERRORS.get(self.fault, errno.EIO)
        return OSError(number, os.strerror(number), path)

    def fails(self, path: str, *faults: Fault) -> bool:
        """Whether this operation, which only these faults concern, is to fail; it is counted."""
        if self.fault not in faults or not path.startswith(self.root):
            return False
        if self.fault == "full" and self.has_failed:
            return True
        self.met += path.endswith(self.name)
        due = self.met == self.nth and path.endswith(self.name) and not self.has_failed
        self.has_failed |= due
        return due

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            path = "" if isinstance(file, int) else os.fspath(file)
            if not str(path).startswith(self.root) or not set(mode) & set("wax"):
                return real(file, mode, *rest, **named)
            if self.fails(path, "forbidden"):
                raise self.error(path)
            buffer = io.BufferedWriter(_File(self, path, mode.replace("b", "").replace("t", "")))
            return buffer if "b" in mode else io.TextIOWrapper(buffer, named.get("encoding"))

        return opened

    def _renaming(self, real: Callable[..., None]) -> Callable[..., None]:
        def renamed(source: Any, target: Any) -> None:
            if self.fails(os.fspath(target), "rename"):
                raise self.error(os.fspath(target))
            real(source, target)

        return renamed

    def _mkdir(self, real: Callable[..., None]) -> Callable[..., None]:
        def made(path: Any, *rest: Any, **named: Any) -> None:
            if self.fails(os.fspath(path), "full", "forbidden"):
                raise self.error(os.fspath(path))
            real(path, *rest, **named)

        return made

    def _fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def flushed(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.fails(path, "fsync"):
                raise self.error(path)
            real(descriptor)

        return flushed

    def _serialize(self, real: Callable[..., None]) -> Callable[..., None]:
        def serialized(tensors: Any, filename: Any, metadata: Any = None) -> None:
            path = os.fspath(filename)
            real(tensors, filename, metadata)
            if self.fails(path, *WRITES):
                os.truncate(path, os.path.getsize(path) // 2 if self.fault == "short" else 0)
                error = self.error(path)
                text = f"I/O error: {error.strerror} (os error {error.errno})"
                raise SafetensorError(f"Error while serializing: {text}")

        return serialized


class _File(io.FileIO):
    """Asks before every write; a short one takes half of what it was given, then nothing."""

    def __init__(self, disk: FaultyDisk, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self.disk, self.path = disk, path
        self.is_full = False

    def write(self, data: Any) -> int:
        if self.is_full or self.disk.fails(self.path, "full", "broken"):
            self.is_full = False
            # As from a write: without the file's name.
            raise OSError(*self.disk.error(self.path).args)
        if not self.disk.fails(self.path, "short"):
            return super().write(data)
        self.is_full = True
        return super().write(bytes(data)[: len(data) // 2])
