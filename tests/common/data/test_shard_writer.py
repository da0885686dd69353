"""Writing shards: what stands in them, when they appear, and what is refused."""

import json
import os
import tarfile
from itertools import count
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from common.data.document import Document, Recording
from common.data.embedded.mixed_documents import image_caption, scene_and_sound, sound_caption
from common.data.embedded.shards import write_documents
from common.data.faults import BadSample
from common.data.shards.writer import (
    EncodedMedium,
    ShardWriter,
    TextWriter,
    interleaved_members,
    safe_key,
)
from common.errors import UserError


def content(tar: Path) -> dict[str, bytes]:
    """Members in order, by the standard library."""
    with tarfile.open(tar) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_a_shard_holds_its_samples_with_their_members_together(tmp_path: Path) -> None:
    long = "deep/" + "k" * 150
    samples = {
        "a": {"jpg": b"\xff" * 513, "txt": "ein Käfer".encode()},
        long: {"json": b"", "0.png": b"x" * 512},
        "Ü-3": {"flac": b"fLaC"},
    }
    with ShardWriter(tmp_path / "new" / "data") as writer:
        for key, members in samples.items():
            writer.write(key, members)
    expected = {f"{k}.{e}": data for k, members in samples.items() for e, data in members.items()}
    written = content(tmp_path / "new/data/00000.tar")
    assert list(written.items()) == list(expected.items())


def test_equal_samples_give_equal_bytes_without_times_and_owners(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        with ShardWriter(folder) as writer:
            writer.write("k" * 200, {"jpg": b"123"})
    shard = tmp_path / "a/00000.tar"
    assert shard.read_bytes() == (tmp_path / "b/00000.tar").read_bytes()
    with tarfile.open(shard) as archive:
        (member,) = archive.getmembers()
    assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)


def test_shards_end_at_either_limit(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a", samples_per_shard=3, bytes_per_shard=6000) as writer:
        for number, size in enumerate((1, 1, 1, 1, 5000, 9000, 1)):
            writer.write(str(number), {"bin": bytes(size)})
    keys = [[*content(path)] for path in sorted((tmp_path / "a").iterdir())]
    assert keys == [["0.bin", "1.bin", "2.bin"], ["3.bin"], ["4.bin"], ["5.bin"], ["6.bin"]]
    with TextWriter(tmp_path / "b", samples_per_shard=2) as texts:
        for number in range(5):
            texts.write(f"http://x/{number}", "line\n\u2028" * number + "!")
    lines = [path.read_text().split("\n")[:-1] for path in sorted((tmp_path / "b").iterdir())]
    assert [len(shard) for shard in lines] == [2, 2, 1]
    assert json.loads(lines[1][1]) == {"key": "http://x/3", "text": "line\n\u2028" * 3 + "!"}


def test_a_shard_appears_whole_and_an_unfinished_one_is_dropped(tmp_path: Path) -> None:
    def fail_in_third_sample() -> None:
        with ShardWriter(tmp_path, samples_per_shard=2) as writer:
            for number in count():
                writer.write(str(number), {"txt": b"text"})
                seen.append([name for name in os.listdir(tmp_path) if name[0] != "."])
                if number == 2:
                    raise RuntimeError("crash")

    seen: list[list[str]] = []
    with pytest.raises(RuntimeError):
        fail_in_third_sample()
    assert seen == [[], [], ["00000.tar"]]
    assert os.listdir(tmp_path) == ["00000.tar"]


def test_finished_shards_are_kept_when_writing_goes_on(tmp_path: Path) -> None:
    for resume in (False, True):
        with TextWriter(tmp_path, samples_per_shard=1, resume=resume) as writer:
            writer.write("a", f"{resume}")
            writer.write("b", f"{resume}")
        (tmp_path / ".00009.jsonl.unfinished").write_text("of a crash")
    texts = [json.loads(path.read_text())["text"] for path in sorted(tmp_path.glob("[0-9]*"))]
    assert texts == ["False", "False", "True", "True"]
    with pytest.raises(UserError, match="not empty"):
        ShardWriter(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        ShardWriter(tmp_path / "00000.jsonl", resume=True)


@pytest.mark.parametrize("key", ["", "a.b", "/a", "../a", "a/../b", "a//b", "a/", ".", "a\nb"])
def test_a_key_that_would_not_be_read_back_is_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path) as writer, pytest.raises(UserError, match="key"):
        writer.write(key, {"txt": b"text"})
    assert os.listdir(tmp_path) == []


def test_a_sample_that_would_melt_into_another_is_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.write("v1.5/a", {"txt": b"text"})
        with pytest.raises(UserError, match="in succession"):
            writer.write("v1.5/a", {"jpg": b"image"})
        for extension in ("", ".jpg", "a/b", "jpg "):
            with pytest.raises(UserError, match="extension"):
                writer.write("b", {extension: b"image"})
        with pytest.raises(UserError, match="no members"):
            writer.write("b", {})
    assert list(content(tmp_path / "00000.tar")) == ["v1.5/a.txt"]


def test_text_that_no_file_can_hold_is_a_fault_of_its_sample(tmp_path: Path) -> None:
    with TextWriter(tmp_path) as writer, pytest.raises(BadSample) as caught:
        writer.write("a", "half a pair: \ud800")
    assert caught.value.cause == "text_encoding"


def test_media_of_a_document_are_named_by_their_position() -> None:
    sound = EncodedMedium(data=b"sound", extension="mp3")
    image = EncodedMedium(data=b"image", extension="webp")
    members = interleaved_members(["ä", sound, "b", image])
    assert json.loads(members.pop("json")) == {
        "texts": ["ä", None, "b", None],
        "images": [None, None, None, "3.webp"],
        "audios": [None, "1.mp3", None, None],
    }
    assert members == {"1.mp3": b"sound", "3.webp": b"image"}


def test_embedded_documents_come_back_from_their_shards(tmp_path: Path) -> None:
    made = [
        make(5, index, "train") for index in range(3) for make in (image_caption, sound_caption)
    ]
    prose = Document(key="prose/7.5", parts=("Only words.",))
    documents = [*made, scene_and_sound(5, 3, "train"), prose]
    assert write_documents(tmp_path, documents, samples_per_shard=6) == len(documents)
    members = content(tmp_path / "00000.tar") | content(tmp_path / "00001.tar")
    assert safe_key(prose.key) == "prose-7-5"
    (tmp_path / "extracted").mkdir()
    for document in documents:
        key = safe_key(document.key)
        record = json.loads(members[f"{key}.json"])
        assert record.get("caption") == document.caption
        nothing = [None] * len(document.parts)
        media = zip(record["images"], record.get("audios", nothing), strict=True)
        for part, text, (image, sound) in zip(document.parts, record["texts"], media, strict=True):
            if isinstance(part, str):
                assert (text, image, sound) == (part, None, None)
                continue
            name = sound if isinstance(part, Recording) else image
            file = tmp_path / "extracted" / name
            file.write_bytes(members[f"{key}.{name}"])
            if isinstance(part, Recording):
                samples, rate = soundfile.read(file, dtype="float32")
                assert rate == 16_000
                assert np.abs(samples - part.samples).max() <= 2**-16
            else:
                assert np.array_equal(np.asarray(PIL.Image.open(file)), part)


def test_recordings_at_full_scale_do_not_wrap_around(tmp_path: Path) -> None:
    samples = np.array([1, -1, 0.99999, 0.3, 0] * 200, dtype=np.float32)
    document = Document(key="loud", parts=(Recording(samples=samples), "loud"))
    write_documents(tmp_path, [document])
    (tmp_path / "a.flac").write_bytes(content(tmp_path / "00000.tar")["loud.0.flac"])
    heard, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    assert np.abs(heard - samples).max() <= 2**-15
