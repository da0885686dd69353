"""Indexing shards: what is found in tars and JSON lines, what is rejected and counted, what is
kept. Archives are written by `tarfile` alone."""

import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from transformers import TokenizersBackend

from common.data.embedded.tokenizer import train_tokenizer
from common.data.prompt_safety import encode_plain
from common.data.shards.build import build_indices
from common.data.shards.corpus import open_shards
from common.data.shards.files import find_shards
from common.data.shards.index import ShardIndex, load_index
from common.data.shards.inspection import index_shard
from common.data.shards.tar import scan_tar
from common.errors import UserError

Entry = tuple[str, bytes] | tarfile.TarInfo


def image(width: int = 7, height: int = 5, *, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (width, height), "red").save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """The header of a PNG with too many pixels, and nothing else."""
    data = bytearray(image())
    data[16:24] = (9000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def sound(seconds: float = 0.25, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    wave = np.sin(np.arange(int(seconds * rate)) / 5)
    soundfile.write(buffer, wave, rate, format="WAV")
    return buffer.getvalue()


def document(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def write_tar(path: Path, entries: list[Entry]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            member = tarfile.TarInfo(entry[0])
            member.size = len(entry[1])
            archive.addfile(member, io.BytesIO(entry[1]))


def pairs(number: int) -> list[Entry]:
    """Samples of three members, image, text and metadata."""
    return [
        entry
        for i in range(number)
        for entry in (
            (f"{i:03d}.png", image(width=10 + i)),
            (f"{i:03d}.txt", f"picture {i}".encode() * (1 + 100 * (i % 3))),
            (f"{i:03d}.json", document(width=10 + i)),
        )
    ]


def link(name: str, *, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "000.txt"
    return member


def index_of(root: Path, file: str = "0.tar") -> ShardIndex:
    index = load_index(root / f"{file}.index.npz")
    assert index is not None
    return index


def keys(index: ShardIndex) -> list[str]:
    return [index.key(number) for number in range(len(index))]


def rejects(root: Path) -> Mapping[str, int]:
    return build_indices(root).rejected


@pytest.fixture(scope="module")
def tokenizer() -> TokenizersBackend:
    return train_tokenizer(["a red circle, a low buzz"] * 9, vocab_size=300)


def test_the_index_finds_the_bytes_that_tarfile_finds(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", pairs(4))
    report = build_indices(tmp_path)
    assert (report.num_samples, report.rejected, report.damaged) == (4, {}, {})
    index, data = index_of(tmp_path), (tmp_path / "0.tar").read_bytes()
    with tarfile.open(tmp_path / "0.tar") as archive:
        for number in range(4):
            for extension, span in index.spans(number).items():
                member = archive.extractfile(f"{index.key(number)}.{extension}")
                assert member is not None
                assert data[span.offset : span.offset + span.size] == member.read()
    assert index.samples["width"].tolist() == [10, 11, 12, 13]
    assert set(index.samples["height"]) == {5}


def test_a_truncated_tar_loses_only_its_last_sample(tmp_path: Path) -> None:
    """Cut everywhere: whole samples are used, and every cut is counted exactly once."""
    write_tar(tmp_path / "whole", pairs(3))
    data = (tmp_path / "whole").read_bytes()
    with tarfile.open(tmp_path / "whole") as archive:
        members = archive.getmembers()
    closing = members[-1].offset_data + 512
    (tmp_path / "cut").mkdir()
    # Each header and each end of a member, just before, at and just behind, and some between.
    borders = [b for m in members for b in (m.offset, m.offset_data, m.offset_data + m.size)]
    cuts = {border + step for border in borders for step in (-1, 0, 1, 9, 70)}
    for cut in sorted(cuts & set(range(closing))):
        (tmp_path / "cut" / "0.tar").write_bytes(data[:cut])
        report = build_indices(tmp_path / "cut")
        # With only the metadata's header lost, nothing tells that there was to be any, unless
        # the header had begun with the key.
        ends = [members[3 * n + 1].offset_data + members[3 * n + 1].size for n in range(3)]
        begun = [members[3 * n + 2].offset + len("000.") for n in range(3)]
        last = [members[3 * n + 2].offset_data + members[3 * n + 2].size for n in range(3)]
        usable = sum(
            end <= cut and (cut < start or whole <= cut)
            for end, start, whole in zip(ends, begun, last, strict=True)
        )
        assert report.num_samples == usable, cut
        assert report.rejected == {"tar_truncated": 1}, cut
        assert list(report.damaged) == ["0.tar"], cut


def test_zeros_in_the_middle_are_not_taken_for_the_end(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", pairs(5))
    data = bytearray((tmp_path / "0.tar").read_bytes())
    with tarfile.open(tmp_path / "0.tar") as archive:
        start = archive.getmember("002.png").offset
    data[start : start + 1024] = bytes(1024)
    (tmp_path / "0.tar").write_bytes(data)
    report = build_indices(tmp_path)
    assert (report.num_samples, report.rejected) == (2, {"tar_truncated": 1})


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 99, bytes(511) + b"x"])
def test_a_file_that_is_no_tar_stops_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    write_tar(tmp_path / "1.tar", pairs(2))
    report = build_indices(tmp_path)
    assert (report.num_samples, report.rejected) == (2, {"tar_truncated": 1})
    assert list(report.damaged) == ["0.tar"]
    assert len(open_shards(tmp_path)) == 2


def test_a_shard_that_the_file_system_refuses_is_tried_again_next_time(tmp_path: Path) -> None:
    (tmp_path / "0.tar").mkdir()  # opens, but cannot be read
    index = index_shard(tmp_path / "0.tar", name="0.tar")
    assert (len(index), index.rejected, index.fingerprint) == (0, {"unreadable": 1}, "")
    assert index.damage is not None


@pytest.mark.proves("S6", "headers of tar damaged", 400)
def test_damaged_headers_neither_fail_nor_hang(tmp_path: Path) -> None:
    write_tar(tmp_path / "whole", [*pairs(2), ("long" * 40 + ".txt", b"pax"), *pairs(1)])
    data = (tmp_path / "whole").read_bytes()
    generator = np.random.default_rng(5)
    for _ in range(400):
        damaged = bytearray(data)
        for place in generator.integers(len(data) // 512, size=3) * 512:
            at = place + generator.integers(512, size=2)
            damaged[at[0]], damaged[at[1]] = generator.bytes(2)
            header = damaged[place : place + 512]
            header[148:156] = b" " * 8
            if generator.integers(2):  # a right checksum takes the damage further
                damaged[place + 148 : place + 156] = b"%06o\0 " % sum(header)
        (tmp_path / "0.tar").write_bytes(damaged)
        for group in scan_tar(tmp_path / "0.tar").groups:
            ends = [member.offset + member.size for member in group.members.values()]
            assert group.fault is not None or max(ends) <= len(data)


@pytest.mark.proves("S6", "links, devices and paths that leave", 5)
def test_links_devices_and_paths_that_leave_reject_their_sample_once(tmp_path: Path) -> None:
    unsafe = [
        ("a.png", image()), link("a.txt"), link("a.json"),
        ("b.png", image()), link("b.txt", kind=tarfile.LNKTYPE),
        ("c.png", image()), link("c.txt", kind=tarfile.CHRTYPE),
        ("/d.png", image()), ("/d.txt", b"absolute"),
        ("e/../../f.png", image()), ("e/../../f.txt", b"upwards"),
        ("g.png", image()), ("g.txt", b"harmless"),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", unsafe)
    assert rejects(tmp_path) == {"member_unsafe": 5}
    assert keys(index_of(tmp_path)) == ["g"]


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path: Path) -> None:
    one, text = image(), b"text"
    entries = [
        ("v1.0/a.png", one), ("v1.0/a.txt", text),  # the folder's dot is not a sample's
        ("a.PNG", one), ("._a.png", b"hidden"), ("README", b"no sample"), ("a.txt", text),
        ("b.png", one), ("b.txt", text), ("b.png", one), ("b.txt", text),
        ("a.png", one), ("a.seg.png", one), ("a.txt", text),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", entries)
    assert rejects(tmp_path) == {}
    index = index_of(tmp_path)
    assert keys(index) == ["v1.0/a", "a", "b", "b~2", "a~2"]
    assert list(index.spans(4)) == ["png", "seg.png", "txt"]


PICTURE: Entry = ("k.png", image())
NAMED = ("k.0.png", image())
BAD_SAMPLES: list[tuple[str, list[Entry]]] = [
    ("text_missing", [PICTURE]),
    ("text_missing", [PICTURE, ("k.json", document(width=3))]),
    ("text_missing", [("k.wav", sound()), ("k.json", document(tag=None))]),
    ("text_empty", [PICTURE, ("k.txt", b" \n")]),
    ("text_empty", [("k.wav", sound()), ("k.json", document(text=["", " "], tag=[]))]),
    ("text_empty", [("k.json", document(texts=["a", " "]))]),
    ("text_encoding", [PICTURE, ("k.txt", b"caf\xe9")]),
    ("json_invalid", [PICTURE, ("k.json", b"{")]),
    ("json_invalid", [PICTURE, ("k.json", document(caption=7))]),
    ("json_invalid", [("k.json", document(texts=[]))]),
    ("json_invalid", [("k.json", document(texts=["a", None], images=[None, None])), NAMED]),
    ("json_invalid", [("k.json", document(texts=["a"], images=["0.png"])), NAMED]),
    ("json_invalid", [("k.json", document(texts=["a"], images=[None, "0.png"])), NAMED]),
    ("json_invalid", [("k.json", document(texts=["a", None], images=[None, 0])), NAMED]),
    ("json_invalid", [("k.json", document(texts=["a"], caption="b"))]),
    ("media_missing", [("k.txt", b"text")]),
    ("media_missing", [("k.json", document(caption="text"))]),
    ("media_missing", [("k.json", document(texts=[None], images=["1.png"])), NAMED]),
    ("image_corrupt", [("k.png", b"no png"), ("k.txt", b"text")]),
    ("image_aspect", [("k.png", image(60, 2)), ("k.txt", b"text")]),
    ("image_pixels", [("k.png", bomb()), ("k.txt", b"text")]),
    ("audio_corrupt", [("k.wav", b"no wav"), ("k.json", document(text="text"))]),
    ("audio_rate", [("k.wav", sound(rate=500)), ("k.json", document(text="text"))]),
]


@pytest.mark.proves("S6", "a bad sample between good ones", 1)
@pytest.mark.parametrize(("cause", "entries"), BAD_SAMPLES)
def test_a_bad_sample_is_counted_and_its_neighbours_are_used(
    tmp_path: Path, cause: str, entries: list[Entry]
) -> None:
    good: list[Entry] = [("y.png", image()), ("y.txt", b"good")]
    write_tar(tmp_path / "0.tar", [("x.png", image()), ("x.txt", b"good"), *entries, *good])
    assert rejects(tmp_path) == {cause: 1}
    assert keys(index_of(tmp_path)) == ["x", "y"]


def test_lines_are_found_by_offset_and_bad_ones_counted(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}', b"", b'{"text": "two", "id": "b"}\r', b"{", b'{"text": ""}',
        b'{"id": 3}', b'{"text": "three", "key": "b"}', '{"text": "drei ß"}'.encode(),
    ]  # fmt: skip
    path = tmp_path / "0.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert rejects(tmp_path) == {"json_invalid": 1, "text_empty": 1, "text_missing": 1}
    index, data = index_of(tmp_path, "0.jsonl"), path.read_bytes()
    assert keys(index) == ["1", "b", "b~2", "8"]
    spans = [index.spans(number)["json"] for number in range(4)]
    found = [json.loads(data[s.offset : s.offset + s.size])["text"] for s in spans]
    assert found == ["one", "two", "three", "drei ß"]


def test_tokens_are_those_of_plain_encoding_and_the_longest_caption_counts(
    tmp_path: Path, tokenizer: TokenizersBackend
) -> None:
    captions = ["a low buzz", "a low buzz and a red circle", "buzz"]
    texts = ["a red circle", "<s> is no control token"]
    entries: list[Entry] = [
        ("s.wav", sound()), ("s.json", document(text=captions)),
        ("i.json", document(texts=[texts[0], None, texts[1]], images=[None, "0.png", None])),
        ("i.0.png", image()),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", entries)
    (tmp_path / "1.jsonl").write_bytes(document(text=texts[0]) + b"\n")
    build_indices(tmp_path, tokenizer=tokenizer)
    tokenizer(["a", "b c"], padding=True, truncation=True)  # leaves its mark in the tokenizer
    corpus = open_shards(tmp_path, tokenizer=tokenizer)
    extents = [corpus.extent(number) for number in range(3)]
    lengths = [[len(encode_plain(t, tokenizer)) for t in group] for group in (captions, texts)]
    expected = [max(lengths[0]), sum(lengths[1]), lengths[1][0]]
    assert [extent.tokens for extent in extents] == expected
    counts = [(e.num_texts, e.num_images, e.num_clips) for e in extents]
    assert counts == [(1, 0, 1), (2, 1, 0), (1, 0, 0)]


def test_finished_shards_are_kept_and_changed_ones_indexed_anew(
    tmp_path: Path, tokenizer: TokenizersBackend
) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", pairs(2 + number))

    def interrupt(finished: int, _: int) -> None:
        if finished == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_indices(tmp_path, progress=interrupt)
    report = build_indices(tmp_path, tokenizer=tokenizer)
    assert (report.num_indexed, report.num_kept) == (1, 2)
    write_tar(tmp_path / "1.tar", [("z.png", image()), *pairs(3)[1:]])
    (tmp_path / "2.tar.index.npz").write_bytes(b"damaged")
    report = build_indices(tmp_path)
    assert (report.num_indexed, report.num_kept) == (2, 1)
    assert report.rejected == {"media_missing": 1, "text_missing": 1}
    with pytest.raises(UserError, match="--tokenizer"):
        open_shards(tmp_path, tokenizer=tokenizer)


def test_an_index_of_pickled_objects_is_never_loaded(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", pairs(1))
    np.savez(tmp_path / "0.tar.index.npz", header=np.array([{}], object))
    assert build_indices(tmp_path).num_indexed == 1


@pytest.mark.slow
def test_processes_write_the_same_index(tmp_path: Path, tokenizer: TokenizersBackend) -> None:
    digests = []
    for num_workers in (1, 2):
        root = tmp_path / str(num_workers)
        root.mkdir()
        for number in range(3):
            write_tar(root / f"{number}.tar", pairs(2 + number))
        calls: list[tuple[int, int]] = []
        build_indices(
            root,
            tokenizer=tokenizer,
            num_workers=num_workers,
            progress=lambda *call: calls.append(call),  # noqa: B023 -- called before it changes
        )
        assert calls == [(1, 3), (2, 3), (3, 3)]
        corpus = open_shards(root, tokenizer=tokenizer)
        digests.append((corpus.digest, [corpus.extent(n) for n in range(len(corpus))]))
    assert digests[0] == digests[1]


def test_hidden_files_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".0.tar.123", ".1.tar", "deep/2.tar", "deep/3.jsonl", "4.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    assert list(find_shards(tmp_path)) == ["deep/2.tar", "deep/3.jsonl"]
