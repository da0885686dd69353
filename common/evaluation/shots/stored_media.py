"""The images or sounds that lie in a folder of training data, as plain files and inside of tar
shards, found without being read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.data.folder import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from common.data.shards.tar import scan_tar
from common.errors import UserError
from common.evaluation.shots.exemplars import MediumKind


@dataclass(frozen=True, kw_only=True)
class StoredMedium:
    """A whole file, or some of its bytes."""

    path: Path
    name: str  # differs from that of any other in its folder
    offset: int = 0
    size: int = -1  # -1: to the end

    def read(self) -> bytes:
        """The encoded medium.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}; check the path") from error


def media_in(folder: Path, *, kind: MediumKind) -> list[StoredMedium]:
    """All media of a kind at any depth of a folder, in the order of their names.

    Raises:
        UserError: the folder does not exist or holds none, or a shard cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"training folder {folder} does not exist; check the path")
    suffixes = IMAGE_SUFFIXES if kind == "image" else AUDIO_SUFFIXES
    found: list[StoredMedium] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in suffixes:
            found.append(StoredMedium(path=path, name=name))
        elif path.suffix == ".tar":
            found += _in_tar(path, name=name, suffixes=suffixes)
    if not found:
        raise UserError(
            f"training folder {folder} holds no {kind}, neither as a file nor in a tar; name one "
            "that does"
        )
    return found


def _in_tar(path: Path, *, name: str, suffixes: frozenset[str]) -> Iterator[StoredMedium]:
    try:
        scan = scan_tar(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    for group in scan.groups:
        for extension, member in group.members.items():
            if group.fault is None and f".{extension.rpartition('.')[2]}" in suffixes:
                yield StoredMedium(
                    path=path,
                    # Keys may repeat in a shard; places do not.
                    name=f"{name}/{group.key}.{extension}@{member.offset}",
                    offset=member.offset,
                    size=member.size,
                )
