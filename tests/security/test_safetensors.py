"""S1: files that call themselves safetensors and are not, through every reader of ours: refused in
one line, or read as the tensors that they hold; quickly and in little memory."""

import json
import resource
import struct
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from common.checkpoint.pretrained import read_tensors
from common.encoders.weights import read_weights
from common.errors import UserError
from tests.matrix import Counted
from tests.security.outcomes import one_line
from tests.timing import within

MUTATIONS = 500
SECONDS_PER_FILE = 1.0  # of the processor
MAX_GROWTH_KB = 200_000
READERS: tuple[Callable[[Path], dict[str, Tensor]], ...] = (
    read_tensors,
    partial(read_weights, kind="vision"),
)


def file_of(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """The format: eight bytes of length, a header of JSON, the tensors' bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(
    first: int, last: int, *, dtype: object = "F32", shape: object = (1,)
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


FOUR = bytes(4)
HOSTILE = {
    "empty": b"",
    "shorter than its length": b"\x01\0\0",
    "header of 2^63 bytes": file_of({}, length=2**63),
    "header of 10^12 bytes": file_of({}, length=10**12),
    "header of 100 MB that is not there": file_of({}, length=100_000_000),
    "header longer than the file": file_of({"a": tensor(0, 4)}, length=400),
    "no JSON": file_of(b"\xff{not json}"),
    "JSON of another kind": file_of([1, 2]),
    "100,000 levels deep": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "overlapping tensors": file_of({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)),
    "hole between tensors": file_of({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),
    "tensor beyond the end": file_of({"a": tensor(0, 4000, shape=[1000])}, FOUR),
    "bytes behind the tensors": file_of({"a": tensor(0, 4)}, bytes(40)),
    "shape that overflows": file_of({"a": tensor(0, 4, shape=[2**62, 2**62])}, FOUR),
    "unknown type": file_of({"a": tensor(0, 4, dtype="EVIL")}, FOUR),
    "offsets below zero": file_of({"a": tensor(-4, 0)}, FOUR),
    "ends before it begins": file_of({"a": tensor(4, 0)}, FOUR),
    "shape of another size": file_of({"a": tensor(0, 4, shape=[7, 3])}, FOUR),
}


def whole() -> bytes:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (7, 5), "a.bias": (7,), "b": (2, 3, 4)}
    return save({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """A few bytes changed, cut, doubled or removed, most of them in the header."""
    (length,) = struct.unpack("<Q", data[:8])
    damaged = bytearray(data)
    kind, place = int(generator.integers(5)), int(generator.integers(8 + length))
    if kind == 0:
        damaged[place] = int(generator.integers(256))
    elif kind == 1:
        claimed = int(generator.integers(2**63)) >> int(generator.integers(60))
        damaged[:8] = struct.pack("<Q", claimed)
    elif kind == 2:
        damaged = damaged[: int(generator.integers(len(data)))]
    elif kind == 3:
        damaged[place:place] = generator.bytes(int(generator.integers(1, 30)))
    else:
        digits = [i for i in range(8, 8 + length) if chr(damaged[i]).isdigit()]
        damaged[int(generator.choice(digits))] = ord(str(generator.integers(10)))
    return bytes(damaged)


def outcome(read: Callable[[Path], dict[str, Tensor]], file: Path) -> str:
    try:
        tensors = read(file)
    except UserError as error:
        one_line(error)
        return "refused"
    return "read" if all(isinstance(value, Tensor) for value in tensors.values()) else "no tensors"


def growth_kb(before: int) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def test_hostile_files_are_refused_in_time_and_memory(tmp_path: Path, counted: Counted) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(whole())
    assert {outcome(read, file) for read in READERS} == {"read"}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in HOSTILE.items():
        file.write_bytes(data)
        for read in READERS:
            reading = partial(outcome, read, file)
            assert within(SECONDS_PER_FILE, reading, of=name) == "refused", name
    assert growth_kb(before) < MAX_GROWTH_KB
    counted("S1", "hostile files", len(HOSTILE))


def test_mutations_are_refused_or_hold_plain_tensors(tmp_path: Path, counted: Counted) -> None:
    file, generator, data = tmp_path / "a.safetensors", np.random.default_rng(11), whole()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    for number in range(MUTATIONS):
        file.write_bytes(mutated(data, generator))
        reading = partial(outcome, READERS[number % 2], file)
        outcomes[within(SECONDS_PER_FILE, reading, of=number)] += 1
    assert outcomes.keys() <= {"refused", "read"}
    assert outcomes["refused"] > MUTATIONS / 2
    assert growth_kb(before) < MAX_GROWTH_KB
    counted("S1", "mutations", MUTATIONS)


def test_damaged_files_of_torch_are_refused(tmp_path: Path, counted: Counted) -> None:
    """The other format that we read: torch's archive, without its pickle being executed."""
    file, generator = tmp_path / "a.pt", np.random.default_rng(12)
    torch.save({"state_dict": {"a": torch.ones(7, 5), "b": torch.zeros(3)}}, file)
    data = np.frombuffer(file.read_bytes(), np.uint8)
    outcomes: Counter[str] = Counter()
    for number in range(200):
        damaged = data.copy()[: len(data) if number % 4 else int(generator.integers(len(data)))]
        places = generator.integers(len(damaged), size=6) if len(damaged) else []
        damaged[places] = generator.integers(256, size=len(places))
        file.write_bytes(damaged.tobytes())
        reading = partial(outcome, READERS[number % 2], file)
        outcomes[within(SECONDS_PER_FILE, reading, of=number)] += 1
    assert outcomes.keys() <= {"refused", "read"}
    counted("S1", "damaged archives of torch", 200)
