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
import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoModelForImageTextToText

from common.checkpoint.pretrained import read_config, read_model, read_tensors
from common.encoders.safetensors_files import MAX_HEADER_BYTES
from common.encoders.weights import read_weights
from common.errors import UserError
from tests.flamingo import tiny
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
HEADER = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
INTEGER = '"a": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}'


def header(text: str) -> bytes:
    """A file of one number whose header is written as it is."""
    return file_of(text.encode(), FOUR)


HOSTILE = {
    "empty": b"",
    "shorter than its length": b"\x01\0\0",
    "header of 2^63 bytes": file_of({}, length=2**63),
    "header of 10^12 bytes": file_of({}, length=10**12),
    "header of 100 MB that is not there": file_of({}, length=100_000_000),
    "header of spaces": file_of(b"{" + b" " * MAX_HEADER_BYTES + b"}"),
    "header longer than the file": file_of({"a": tensor(0, 4)}, length=400),
    "no header": file_of(b""),
    "no JSON": file_of(b"\xff{not json}"),
    "JSON of another kind": file_of([1, 2]),
    "100,000 levels deep": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "bytes behind the header": header("{" + HEADER + "}\0"),
    "two headers": header("{" + HEADER + "}{}"),
    "spaces before the header": header("  {" + HEADER + "}"),
    "mark of byte order": header("\ufeff{" + HEADER + "}"),
    "half a character": header('{"\\ud800": {}}'),
    "overlapping tensors": file_of({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)),
    "two tensors in one place": file_of({"a": tensor(0, 4), "b": tensor(0, 4)}, FOUR),
    "hole between tensors": file_of({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),
    "hole before the tensors": file_of({"a": tensor(4, 8)}, bytes(8)),
    "tensor beyond the end": file_of({"a": tensor(0, 4000, shape=[1000])}, FOUR),
    "empty tensor inside of another": file_of(
        {"a": tensor(0, 4), "b": tensor(2, 2, shape=[0]), "c": tensor(4, 8)}, bytes(8)
    ),
    "empty tensor beyond the end": file_of({"a": tensor(0, 4), "b": tensor(8, 8, shape=[0])}, FOUR),
    "bytes behind the tensors": file_of({"a": tensor(0, 4)}, bytes(40)),
    "shape that overflows": file_of({"a": tensor(0, 4, shape=[2**62, 2**62])}, FOUR),
    "empty shape that overflows": file_of({"a": tensor(0, 0, shape=[2**62, 2**62, 0])}),
    "shape below zero": file_of({"a": tensor(0, 4, shape=[-1, -1])}, FOUR),
    "shape of fractions": file_of({"a": tensor(0, 4, shape=[1.0])}, FOUR),
    "unknown type": file_of({"a": tensor(0, 4, dtype="EVIL")}, FOUR),
    "type of half a byte, cut": file_of({"a": tensor(0, 1, dtype="F4", shape=[1])}, b"\2"),
    "type as a table": header("{" + HEADER.replace('"F32"', '{"F32": null}') + "}"),
    "offsets below zero": file_of({"a": tensor(-4, 0)}, FOUR),
    "offsets of 2^64": file_of({"a": tensor(2**64 - 4, 2**64)}, FOUR),
    "ends before it begins": file_of({"a": tensor(4, 0)}, FOUR),
    "one offset": file_of({"a": tensor(0, 4) | {"data_offsets": [0]}}, FOUR),
    "shape of another size": file_of({"a": tensor(0, 4, shape=[7, 3])}, FOUR),
    "no shape": file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR),
    "unknown field": file_of({"a": tensor(0, 4) | {"evil": 1}}, FOUR),
    "fields without names": header('{"a": ["F32", [1], [0, 4]]}'),
    "name twice": header("{" + HEADER + ", " + HEADER + "}"),
    "name twice, other type": header("{" + HEADER + ", " + INTEGER + "}"),
    "name twice, once escaped": header("{" + HEADER + ", " + INTEGER.replace("a", "\\u0061") + "}"),
    "field twice": header("{" + HEADER.replace('"dtype"', '"dtype": "I32", "dtype"') + "}"),
    "metadata twice": header('{"__metadata__": {}, "__metadata__": {}, ' + HEADER + "}"),
    "name twice in metadata": header('{"__metadata__": {"b": "c", "b": "d"}, ' + HEADER + "}"),
    "metadata of numbers": header('{"__metadata__": {"b": 3}, ' + HEADER + "}"),
    "metadata of tables": header('{"__metadata__": {"b": {"c": "d"}}, ' + HEADER + "}"),
    "no metadata": header('{"__metadata__": null, ' + HEADER + "}"),
}
# Odd, but what the format allows: what is read is what the header says, no more and no less.
ODD = {
    "spaces behind the header": header("{" + HEADER + "} \n "),
    "other order": file_of({"b": tensor(4, 8), "a": tensor(0, 4)}, bytes(range(8))),
    "no element, place shared": file_of({"a": tensor(0, 4), "b": tensor(0, 0, shape=[0])}, FOUR),
    "no element, at the end": file_of({"a": tensor(0, 4), "b": tensor(4, 4, shape=[0])}, FOUR),
    "no element, vast": file_of(
        {"a": tensor(0, 0, shape=[0, 2**40]), "b": tensor(0, 0, shape=[0])}
    ),
    "no dimension": file_of({"a": tensor(0, 4, shape=[])}, b"\1\2\3\4"),
    "60 dimensions": file_of({"a": tensor(0, 4, shape=[1] * 60)}, b"\1\2\3\4"),
    "not finite": file_of({"a": tensor(0, 4)}, b"\xff" * 4),
    "names of paths": file_of({"../../a": tensor(0, 4), "..\\b": tensor(4, 8)}, bytes(range(8))),
    "names of Python": file_of({"__class__": tensor(0, 4), "": tensor(4, 8)}, bytes(range(8))),
    "long name": file_of({"a" * 100_000: tensor(0, 4)}, FOUR),
    "name with a zero": file_of({"a\0b": tensor(0, 4)}, FOUR),
}


def expected(data: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Shapes and bytes, read off the header by hand."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8:start])
    return {
        name: (tuple(entry["shape"]), data[start:][slice(*entry["data_offsets"])])
        for name, entry in entries.items()
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


def test_an_odd_file_is_read_as_its_header_says(tmp_path: Path, counted: Counted) -> None:
    file = tmp_path / "a.safetensors"
    for name, data in ODD.items():
        file.write_bytes(data)
        for read in READERS:
            found = {
                key: (tuple(value.shape), value.numpy().tobytes())
                for key, value in read(file).items()
            }
            assert found == expected(data), name
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    counted("S1", "odd files that mean one thing", len(ODD))


def test_a_model_with_a_name_twice_is_refused(tmp_path: Path, counted: Counted) -> None:
    """transformers reads the weights itself; it is not given files that mean two things."""
    tiny.model(vocab_size=300).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = weights.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    name, entry = next(item for item in json.loads(data[8:start]).items() if item[0][0] != "_")
    twice = b"{" + json.dumps({name: entry})[1:-1].encode() + b"," + data[9:start]
    weights.write_bytes(file_of(twice, data[start:]))
    with pytest.raises(UserError, match="more than once") as told:
        read_model(AutoModelForImageTextToText, tmp_path, config=read_config(tmp_path))
    one_line(told.value)
    counted("S1", "name twice in a model", 1)


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
