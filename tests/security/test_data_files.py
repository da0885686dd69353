"""S6 and the lists beside shards: an index, a manifest, a crawl, captions, conversations and the
official files of benchmarks that were damaged or forged. A fault is a counted sample or one line;
nothing outside the folder is read or written."""

import io
import json
import random
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.conversations.sources import open_instructions
from common.data.embedded.benchmarks import write_benchmarks
from common.data.faults import BadSample
from common.data.folder import read_interleaved
from common.data.ingest.csv_rows import read_csv
from common.data.ingest.wet import read_pages
from common.data.shards.build import build_indices
from common.data.shards.corpus import open_shards
from common.data.shards.index import MEMBER, SAMPLE, load_index
from common.data.shards.writer import TextWriter
from common.data.texts import read_texts
from common.errors import UserError
from common.evaluation.benchmarks.captions import read_coco_captions
from common.evaluation.benchmarks.submissions import read_answers
from common.evaluation.benchmarks.vqa import read_vqa
from tests.matrix import Counted
from tests.security.outcomes import one_line

DAMAGES = 60  # of each file, half of them to its bytes, half to its values
ODD: tuple[Any, ...] = (
    None, True, -1, 2.5, 10**40, "", "a", "../../secret", "//else/where", "\0", [], {}, [1],
    {"a": []},
)  # fmt: skip
Read = Callable[[Path], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind, each of them whole."""
    root = tmp_path_factory.mktemp("files")
    write_benchmarks(root / "benchmarks", num=3, seed=0)
    words = ["A page of the web.", "Another one."]
    records = [
        b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a/%d\r\n"
        b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (number, len(text), text.encode())
        for number, text in enumerate(words)
    ]
    (root / "a.warc.wet").write_bytes(b"".join(records))
    (root / "a.csv").write_text('name,caption\n0.png,"a, b"\n1.png,c\n')
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    (root / "llava.json").write_text(json.dumps([{"id": "1", "conversations": turns}] * 3))
    lines = [{"texts": ["a", "b"], "images": [None, None]}] * 3
    (root / "interleaved.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (root / "answers.json").write_text(json.dumps([{"question_id": 3, "answer": "a"}] * 1))
    return root


def readers(root: Path) -> dict[str, tuple[str, Read]]:
    data = root / "benchmarks"
    vqa, coco = data / "vqav2", data / "coco"
    questions = "v2_OpenEnded_mscoco_val2014_questions.json"
    annotations = "v2_mscoco_val2014_annotations.json"
    captions = next(path for path in coco.rglob("*captions*val*.json"))

    def conversations(path: Path) -> object:
        file = open_instructions(path, kind="llava", media=root)
        return [file[number] for number in range(len(file))]

    return {
        "crawl": ("a.warc.wet", lambda path: [*read_pages(path)]),
        "csv": ("a.csv", lambda path: [*read_csv(path, columns=["name", "caption"])]),
        "conversations": ("llava.json", conversations),
        "interleaved": ("interleaved.jsonl", read_interleaved),
        "texts": ("texts.jsonl", read_texts),
        "answers": ("answers.json", read_answers),
        "captions": (
            str(captions.relative_to(root)),
            lambda path: read_coco_captions(path, images=coco / "val2014"),
        ),
        "questions": (
            str((vqa / questions).relative_to(root)),
            lambda path: read_vqa(path, vqa / annotations, images=coco / "val2014"),
        ),
        "annotations": (
            str((vqa / annotations).relative_to(root)),
            lambda path: read_vqa(vqa / questions, path, images=coco / "val2014"),
        ),
    }


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(changed))
        changed[place : place + draw.randint(0, 2)] = draw.randbytes(draw.randint(0, 2))
    return bytes(changed[: draw.choice([len(changed), draw.randrange(len(changed))])])


def odd_values(data: bytes, draw: random.Random) -> bytes:
    """A value of one of the file's objects is another one."""
    text = data.decode()
    is_lines = text.count("\n") > 1 and not text.startswith(("[", "{\n"))
    parts = [json.loads(part) for part in (text.splitlines() if is_lines else [text])]
    holders = [holder for part in parts for holder in _holders(part)]
    holder = draw.choice(holders)
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key] = draw.choice(ODD)
    return "\n".join(json.dumps(part) for part in parts).encode() + b"\n"


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def outcome(read: Callable[[], object]) -> str:
    try:
        found = read()
    except UserError as error:
        one_line(error)
        return "refused"
    counted = isinstance(found, list) and any(isinstance(item, BadSample) for item in found)
    return "counted" if counted else "read"


def test_damaged_lists_are_counted_or_told_in_one_line(folder: Path, counted: Counted) -> None:
    draw, total = random.Random(3), 0
    for name, (file, read) in readers(folder).items():
        path = folder / file
        data = path.read_bytes()
        assert outcome(lambda read=read, path=path: read(path)) == "read", name
        outcomes: Counter[str] = Counter()
        for number in range(DAMAGES):
            by_value = number % 2 and path.suffix in (".json", ".jsonl")
            path.write_bytes((odd_values if by_value else damaged_bytes)(data, draw))
            outcomes[outcome(lambda read=read, path=path: read(path))] += 1
        path.write_bytes(data)
        assert outcomes["refused"] + outcomes["counted"] > DAMAGES / 10, (name, outcomes)
        total += DAMAGES
    counted("S6", "lists, crawls and files of benchmarks", total)


HOSTILE = {
    "100,000 levels": b"[" * 100_000,
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "no Unicode": b'{"a": "\xff"}',
    "no object": b"7",
}


def test_hostile_json_is_told_in_one_line_by_every_reader(folder: Path, counted: Counted) -> None:
    tried = 0
    for name, (file, read) in readers(folder).items():
        path = folder / file
        if path.suffix not in (".json", ".jsonl"):
            continue
        data = path.read_bytes()
        for what, content in HOSTILE.items():
            path.write_bytes(content)
            refused = outcome(lambda read=read, path=path: read(path))
            assert refused == "refused", (name, what)
            tried += 1
        path.write_bytes(data)
    counted("S6", "hostile JSON", tried)


def test_a_benchmark_names_no_file_outside_its_folder(folder: Path, counted: Counted) -> None:
    coco = folder / "benchmarks" / "coco"
    path = next(path for path in coco.rglob("*captions*val*.json"))
    data = path.read_bytes()
    (folder / "benchmarks" / "secret.jpg").write_bytes(b"secret")
    for name in ("../../secret.jpg", str(folder / "benchmarks" / "secret.jpg")):
        content = json.loads(data)
        for entry in content["images"]:
            entry["file_name"] = name
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="outside"):
            read_coco_captions(path, images=coco / "val2014")
    path.write_bytes(data)
    counted("S6", "paths that leave a benchmark", 2)


def zipped(header: bytes, **changed: int) -> bytes:
    """An archive of an array whose header is written as it is; bytes of its directory changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("header", "samples", "members"):
            archive.writestr(
                f"{name}.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
            )
    data = bytearray(buffer.getvalue())
    places = {"version": 6, "flags": 8, "method": 10}
    for name, value in changed.items():
        for entry in re.finditer(b"PK\1\2", bytes(data)):
            data[entry.start() + places[name]] = value
    return bytes(data)


ARRAY = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}"
# Each of them raises something else in zipfile or numpy.
ODD_ARCHIVES = {
    "of a later version": zipped(ARRAY, version=217),
    "encrypted": zipped(ARRAY, flags=1),
    "packed in an unknown way": zipped(ARRAY, method=99),
    "header that does not end": zipped(b"{'descr': '|u1', 'shape': (2,)"),
    "header that is no Python": zipped(b"{'descr': 'u1'}}}"),
    "array without end": zipped(ARRAY.replace(b"2,", b"%d," % 10**15)),
    "array of more than 2^64": zipped(ARRAY.replace(b"2,", b"%d," % 10**30)),
}


def test_an_index_that_is_an_odd_archive_is_none(tmp_path: Path, counted: Counted) -> None:
    for name, data in ODD_ARCHIVES.items():
        (tmp_path / "a.index.npz").write_bytes(data)
        assert load_index(tmp_path / "a.index.npz") is None, name
    counted("S6", "indices that are odd archives", len(ODD_ARCHIVES))


def test_a_damaged_index_or_manifest_is_made_anew_or_told(tmp_path: Path, counted: Counted) -> None:
    with TextWriter(tmp_path) as writer:
        for number in range(5):
            writer.write(f"k{number}", f"text {number}")
    build_indices(tmp_path)
    draw = random.Random(4)
    files = [*tmp_path.glob("*.index.npz"), tmp_path / "index.json"]
    for path in files:
        data = path.read_bytes()
        for number in range(DAMAGES):
            by_value = number % 2 and path.suffix == ".json"
            path.write_bytes((odd_values if by_value else damaged_bytes)(data, draw))
            outcome(lambda: [*map(open_shards(tmp_path).read, range(5))])
        path.write_bytes(data)
    counted("S6", "damaged indices and manifests", DAMAGES * len(files))


def forged(**arrays: Any) -> dict[str, Any]:
    """The arrays of an index of two samples, some of them forged."""
    samples = np.zeros(2, SAMPLE)
    samples["key_end"], samples["member_end"] = [1, 2], [1, 2]
    whole = {"samples": samples, "members": np.zeros(2, MEMBER), "keys": np.frombuffer(b"ab", "u1")}
    return whole | arrays


def of_sample(field: str, values: list[int]) -> dict[str, Any]:
    samples = forged()["samples"].copy()
    samples[field] = values
    return forged(samples=samples)


def of_member(field: str, values: list[int]) -> dict[str, Any]:
    members = forged()["members"].copy()
    members[field] = values
    return forged(members=members)


FORGED = {
    "keys that end backwards": of_sample("key_end", [2, 1]),
    "keys beyond the end": of_sample("key_end", [1, 900]),
    "keys below zero": of_sample("key_end", [-5, 2]),
    "members beyond the end": of_sample("member_end", [1, 10**12]),
    "members backwards": of_sample("member_end", [2, 0]),
    "unknown kind": of_sample("kind", [0, 200]),
    "unknown extension": of_member("extension", [0, 7]),
    "offset below zero": of_member("offset", [0, -9]),
    "size below zero": of_member("size", [0, -9]),
    "keys that are no text": forged(keys=np.frombuffer(b"\xff\xfe", "u1")),
    "numbers for samples": forged(samples=np.zeros(2)),
    "table of members": forged(members=np.zeros((2, 2))),
}


def test_a_forged_index_is_not_taken(tmp_path: Path, counted: Counted) -> None:
    header = {
        "version": 1, "fingerprint": "", "extensions": ["txt"], "rejected": {}, "damage": None,
    }  # fmt: skip
    encoded = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(tmp_path / "a.npz", header=encoded, **forged())
    assert load_index(tmp_path / "a.npz") is not None
    for name, arrays in FORGED.items():
        np.savez(tmp_path / "a.npz", header=encoded, **arrays)
        assert load_index(tmp_path / "a.npz") is None, name
    counted("S6", "forged indices", len(FORGED))
