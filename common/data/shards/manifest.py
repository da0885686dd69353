"""The index of a dataset, `index.json` in its folder: its shards, their sizes and fingerprints,
how many samples of each are usable and why the others are not. Opening a dataset reads nothing
else, and compares it with what is in the folder."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from common.data.faults import Cause
from common.data.shards.files import find_shards, write_atomically
from common.data.shards.index import VERSION, ShardIndex
from common.errors import UserError

FILE_NAME = "index.json"


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the dataset's index knows of a shard."""

    file: str  # path in the dataset's folder
    num_bytes: int
    fingerprint: str
    digest: str  # of the shard's index
    num_samples: int
    rejected: Mapping[Cause, int]
    damage: str | None  # why the shard could not be read to its end


def entry_of(file: str, *, num_bytes: int, index: ShardIndex) -> ShardEntry:
    """The entry of a shard that was indexed."""
    return ShardEntry(
        file=file,
        num_bytes=num_bytes,
        fingerprint=index.fingerprint,
        digest=index.digest,
        num_samples=len(index),
        rejected=index.rejected,
        damage=index.damage,
    )


def write_manifest(root: Path, entries: Sequence[ShardEntry]) -> None:
    """Write `index.json`.

    Raises:
        UserError: the file system refuses.
    """
    content = {"version": VERSION, "shards": [vars(entry) for entry in entries]}
    data = json.dumps(content, indent=1).encode()
    write_atomically(root / FILE_NAME, lambda file: file.write(data))


def read_manifest(root: Path) -> list[ShardEntry]:
    """The entries of all shards of a dataset, in the order of their names.

    Raises:
        UserError: the index is missing or damaged, or other shards are in the folder.
    """
    sizes = find_shards(root)
    entries = _parsed(root)
    indexed = {entry.file: entry.num_bytes for entry in entries}
    for file in sorted(sizes.keys() | indexed.keys()):
        if file not in indexed:
            raise stale(root, f"shard {file} is not in the index")
        if file not in sizes:
            raise stale(root, f"shard {file} of the index is missing")
        if sizes[file] != indexed[file]:
            raise stale(root, f"shard {file} is not the one that was indexed, its size differs")
    return entries


def corpus_digest(entries: Sequence[ShardEntry]) -> str:
    """Equal for equal usable samples under equal keys."""
    content = [(entry.file, entry.digest) for entry in entries]
    return blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def all_rejected(entries: Sequence[ShardEntry]) -> dict[str, int]:
    """Samples that cannot be used, by cause."""
    rejected: Counter[str] = Counter()
    for entry in entries:
        rejected.update(entry.rejected)
    return dict(rejected)


def stale(root: Path, fault: str, *, options: str = "") -> UserError:
    """The error for an index that is not of these shards, with its remedy."""
    return UserError(
        f"dataset {root}: {fault}; run `python scripts/prepare_data.py index {root}{options}`"
    )


def _parsed(root: Path) -> list[ShardEntry]:
    try:
        content = json.loads((root / FILE_NAME).read_bytes())
        if content["version"] != VERSION:
            raise stale(root, f"its index is of version {content['version']}, not {VERSION}")
        entries = [ShardEntry(**entry) for entry in content["shards"]]
        if not all(map(_is_whole, entries)):
            raise TypeError("a field is of another type")
        return entries
    except FileNotFoundError as error:
        raise stale(root, "it has no index") from error
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise stale(root, f"its {FILE_NAME} is damaged") from error


def _is_whole(entry: ShardEntry) -> bool:
    texts, numbers = (entry.file, entry.fingerprint, entry.digest), [entry.num_bytes]
    numbers += [entry.num_samples, *entry.rejected.values()]
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and isinstance(entry.damage, str | None)
    )
