"""Files of tensors in the safetensors format, held to its text where the library is lenient: a name
that stands twice, of which the last would silently win, and fields that the format does not have.
Tensors without elements share their place with others, which the format allows: they hold nothing.
"""

import json
import struct
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

MAX_HEADER_BYTES = 32 * 2**20  # some 200,000 tensors
_FIELDS = {"dtype", "shape", "data_offsets"}


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of the file.

    Raises:
        SafetensorError: it is damaged.
        ValueError: its header means more than one thing.
    """
    check_header(file)
    return load_file(file)


def check_header(file: Path) -> None:
    """Reads no tensor.

    Raises:
        SafetensorError: sizes, places and types do not fit together.
        ValueError: the header means more than one thing.
    """
    with safe_open(file, framework="pt"), file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{file} has a header of {length} bytes; {MAX_HEADER_BYTES} are most")
        text = stream.read(length)
    if not text.startswith(b"{"):
        raise ValueError(f"{file} has a header that does not begin with {{")
    header = json.loads(text, object_pairs_hook=_without_doubles)
    metadata = header.pop("__metadata__", {})
    for name, entry in header.items():
        if not (isinstance(entry, dict) and entry.keys() == _FIELDS):
            raise ValueError(f"{file} describes {name[:80]!r} by other fields than {_FIELDS}")
        if not isinstance(entry["dtype"], str):
            raise ValueError(f"{file} has no type for {name[:80]!r}")
    if not isinstance(metadata, dict):
        raise ValueError(f"{file} has no table of metadata")


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the header has {twice[:80]!r} more than once")
    return fields
