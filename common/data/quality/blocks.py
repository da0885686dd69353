"""Results on disk by blocks of samples, each a file that appears whole: what a stopped run had
finished is there for the next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from common.data.shards.files import write_atomically
from common.data.shards.index import STORAGE_ERRORS
from common.errors import UserError

BLOCK = 10_000  # samples
Progress: TypeAlias = Callable[[int, int], None]  # blocks done, blocks in all


def claim_folder(folder: Path, claim: str) -> None:
    """Says in the folder what its blocks belong to.

    Raises:
        UserError: it holds blocks of something else, or cannot be written.
    """
    path = folder / "blocks.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, claim)
    elif path.read_text(encoding="utf-8") != claim:
        raise UserError(
            f"{folder} holds blocks of other data or settings; remove it or use another"
        )


def block_path(folder: Path, start: int, *, suffix: str) -> Path:
    """File of the block that begins with sample `start`."""
    return folder / f"{start:010d}{suffix}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """
    Raises:
        UserError: what is done meanwhile finds the block damaged.
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        raise UserError(f"{path} is damaged; remove it, and it is made again") from error


def write_text(path: Path, text: str) -> None:
    """
    Raises:
        UserError: the file system refuses.
    """

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)
