"""Ingest of text: sources are written by other libraries or by hand, shards are read back by
`json`; every text must be the same, and every fault counted."""

import gzip
import json
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.ingest.media import MediaStore
from common.data.ingest.pieces import divide
from common.data.ingest.report import IngestReport
from common.data.ingest.text import ingest_text
from common.data.shards.writer import TextWriter
from common.errors import UserError


def texts_in(folder: Path) -> dict[str, str]:
    lines = b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl"))).splitlines()
    records = [json.loads(line) for line in lines]
    return {record["key"]: record["text"] for record in records}


def texts(source: Path, **options: int | str) -> tuple[IngestReport, dict[str, str]]:
    folder = source.parent / f"shards-{source.name}"
    with TextWriter(folder) as writer:
        report = ingest_text(source, writer, **options)
    return report, texts_in(folder)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def json_lines(*records: object) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


TEXTS = ["ein Käfer", "line\nfeed \u2028 end", "last"]


def compressed(path: Path, data: bytes) -> None:
    """In two frames or members, as tools that append or work in parallel leave them."""
    middle = len(data) // 2
    if path.suffix == ".zst":
        codec = pyarrow.Codec("zstd")
        frames = [codec.compress(part, asbytes=True) for part in (data[:middle], data[middle:])]
        path.write_bytes(b"".join(frames))
    else:
        path.write_bytes(gzip.compress(data[:middle]) + gzip.compress(data[middle:]))


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.json.gz", "t.jsonl.zst", "t.parquet"])
def test_texts_come_the_same_from_every_container(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    columns = {"id": ["a", "b", "c"], "content": TEXTS}
    records = [{"id": key, "content": text} for key, text in zip("abc", TEXTS, strict=True)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_bytes(json_lines(*records))
    else:
        compressed(path, json_lines(*records))
    report, written = texts(path, text_field="content")
    assert written == dict(zip("abc", TEXTS, strict=True))
    assert (report.written, report.faults) == (3, Counter())


def test_bad_texts_are_counted_and_the_next_ones_follow(tmp_path: Path) -> None:
    lines = [
        b'{"text": "\xff"}',
        b'{"text": " "}',
        b"[]",
        b'{"texts": "x"}',
        b'{"text": "\\ud800"}',
    ]
    path = write_files(tmp_path, {"t.jsonl": b"\n".join([*lines, b'{"text": "fine", "id": 9}'])})
    report, written = texts(path / "t.jsonl")
    assert written == {"9": "fine"}
    assert report.faults == Counter(json_invalid=3, text_empty=1, text_missing=1)
    values = pyarrow.array([b"\xff\xfe", b"fine", None], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "t.parquet")
    report, written = texts(tmp_path / "t.parquet")
    assert written == {"t-1": "fine"}
    assert report.faults == Counter(text_encoding=1, text_missing=1)


def wet_record(kind: str, address: str, content: bytes, *, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {address}\r\nContent-Length: {size}"
    return head.encode() + b"\r\n\r\n" + content + b"\r\n\r\n"


def test_wet_pages_are_read_from_every_gzip_member(tmp_path: Path) -> None:
    pages = {"http://a/": "Käse\r\n\r\nWARC/1.0 in a text\n", "http://b/?x=1#y": "zweite Seite"}
    members = [
        wet_record("warcinfo", "", b"Software-Info: x\r\n"),
        *(wet_record("conversion", address, text.encode()) for address, text in pages.items()),
        wet_record("conversion", "http://latin/", b"K\xe4se"),
        wet_record("conversion", "http://lost/", b"text", length=-4),
        wet_record("conversion", "http://large/", b"x" * 10_000_001),
        wet_record("conversion", "http://last/", "schön".encode()),
    ]
    path = tmp_path / "x.warc.wet.gz"
    path.write_bytes(b"".join(map(gzip.compress, members)))
    report, written = texts(path)
    assert written == {address: text.strip() for address, text in pages.items()} | {
        "http://last/": "schön"
    }
    assert report.faults == Counter(text_encoding=1, unreadable=1, text_long=1)
    cut = write_files(tmp_path, {"cut.warc.wet": b"".join(members[:3])[:-14]}) / "cut.warc.wet"
    report, written = texts(cut)
    assert (list(written), report.faults) == (["http://a/"], Counter(unreadable=1))


def test_a_text_file_is_one_text_in_pieces(tmp_path: Path) -> None:
    paragraphs = [f"Absatz {number} {'ö' * (number % 7)}.\r\n" for number in range(900)]
    path = write_files(tmp_path, {"book.txt": b"\xef\xbb\xbf" + "\r\n".join(paragraphs).encode()})
    report, written = texts(path / "book.txt", max_characters=500)
    assert list(written) == [f"book#{number}" for number in range(report.written)]
    assert "".join(written.values()) == "\r\n".join(paragraphs)
    assert all(text.startswith("Absatz") for text in written.values())
    for content, cause in ((b" \n", "text_empty"), (b"a\xff", "text_encoding")):
        (tmp_path / f"{cause}.txt").write_bytes(content)
        report, written = texts(tmp_path / f"{cause}.txt")
        assert (written, report.faults) == ({}, Counter({cause: 1}))


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.text(st.sampled_from("ab .!?\n\u3002\u00df\U0001f600"), max_size=70)),
    max_characters=st.integers(1, 25),
)
def test_joined_pieces_are_the_text_and_none_is_too_long(
    chunks: list[str], max_characters: int
) -> None:
    pieces = list(divide(chunks, max_characters=max_characters))
    assert "".join(pieces) == "".join(chunks)
    assert all(0 < len(piece) <= max_characters for piece in pieces)
    assert pieces == list(divide(["".join(chunks)], max_characters=max_characters))


def test_a_text_is_cut_at_the_best_boundary_there_is() -> None:
    def first(text: str) -> str:
        return next(divide([text], max_characters=20))

    assert first("One. Two three\n\nFour. Five six.") == "One. Two three\n\n"
    assert first("One two three. Four five six") == "One two three. "
    assert first("One two three four five six") == "One two three four "
    assert first("Onetwothreefourfivesixseven") == "Onetwothreefourfives"


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst", "t.jsonl.zip", "t.parquet"])
def test_a_damaged_file_gives_what_it_can_and_is_counted(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = json_lines(*({"text": f"{number} " * 50} for number in range(400)))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.jsonl", data)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    else:
        compressed(path, data)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    report, written = texts(path)
    assert len(written) == report.written < 400
    assert (report.written >= 150) == (path.suffix in (".gz", ".zst"))
    assert report.faults["unreadable"] == 1
    assert name in report.examples["unreadable"]


def test_a_users_mistakes_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "t.parquet")
    compressed(tmp_path / "t.jsonl.zst", b"{}")
    (tmp_path / "t.doc").write_bytes(b"x")
    for name, message in (
        ("t.parquet", "no column 'text', only body"),
        ("gone.jsonl", "does not exist"),
        ("gone.parquet", "does not exist"),
        ("t.doc", "is no .jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            texts(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        MediaStore(tmp_path / "gone")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("t.jsonl.zst", "t.parquet"):
        with pytest.raises(UserError, match=r"pip install 'flare-flamingo\[ingest\]'"):
            texts(tmp_path / name)
