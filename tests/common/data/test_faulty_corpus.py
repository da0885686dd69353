"""A corpus with every fault once, indexed and read through a feed: each is counted once by its
cause, and everything else arrives once an epoch. Archives are written by `tarfile` alone."""

import io
import json
import os
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from common.data.document import Document
from common.data.faults import BadSample, Cause
from common.data.feed import Drawn, Feed
from common.data.mixture import Mixture
from common.data.sampler import Order
from common.data.shards.build import build_indices
from common.data.shards.corpus import ShardCorpus, open_shards
from common.errors import UserError

RATE = 16_000
EPOCHS = 3
NOISE = np.random.default_rng(0)
LINK = None  # in place of a member's bytes: a link to a file outside
Members = Mapping[str, bytes | None]


@dataclass(frozen=True)
class Sample:
    """What is written under a key, and when what should be found wrong with it."""

    key: str
    members: Members
    at_index: Cause | None = None
    at_reading: Cause | None = None


def encoded(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 30, height: int = 20) -> PIL.Image.Image:
    noise = NOISE.integers(256, size=(height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise)


def png(width: int = 30, height: int = 20) -> bytes:
    return encoded(picture(width, height), "PNG")


def bomb() -> bytes:
    """A PNG whose header claims 81 million pixels."""
    data = bytearray(png())
    data[16:24] = struct.pack(">II", 9000, 9000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def animated() -> bytes:
    """Red, then blue."""
    frames = [PIL.Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned() -> bytes:
    """Red left of blue, to be shown turned clockwise: red above blue."""
    stored = PIL.Image.new("RGB", (32, 16), "red")
    stored.paste("blue", (16, 0, 32, 16))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encoded(stored, "JPEG", quality=95, exif=exif)


def wav(samples: np.ndarray | None = None, *, rate: int = RATE) -> bytes:
    if samples is None:
        samples = NOISE.uniform(-0.5, 0.5, 900)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.float32), rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE.uniform(-0.5, 0.5, 900), RATE, format="FLAC")
    return buffer.getvalue()


def without_rate() -> bytes:
    data = bytearray(wav())
    data[24:28] = bytes(4)
    return bytes(data)


def document(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def pairs(outside: Path) -> list[Sample]:
    told = {"txt": b"a caption"}
    green = PIL.Image.new("RGB", (64, 48), "green")
    noise = encoded(picture(64, 48), "JPEG")
    cmyk = PIL.Image.new("CMYK", (30, 20), (0, 255, 255, 0))
    grey = PIL.Image.fromarray(np.full((20, 30), 0x8040, dtype=np.uint16))
    link: Members = {"jpg": LINK, "txt": b"a secret"}
    return [
        Sample("plain", {"png": png(), "txt": b"noise", "json": b"{}"}),
        Sample("animated", {"gif": animated(), **told}),
        Sample("cmyk", {"jpg": encoded(cmyk, "JPEG", quality=95), **told}),
        Sample("deep", {"png": encoded(grey, "PNG"), **told}),
        Sample("turned", {"jpg": turned(), **told}),
        Sample("in-json", {"jpg": encoded(green, "JPEG"), "json": document(caption="green")}),
        Sample("no-image", {"jpg": b"<html>not found</html>", **told}, at_index="image_corrupt"),
        Sample("bomb", {"png": bomb(), **told}, at_index="image_pixels"),
        Sample("thin", {"png": png(9, 1), **told}, at_index="image_side"),
        Sample("long", {"png": png(90, 4), **told}, at_index="image_aspect"),
        Sample("blank", {"png": png(), "txt": b" \n"}, at_index="text_empty"),
        Sample("latin", {"png": png(), "txt": b"caf\xe9"}, at_index="text_encoding"),
        Sample("untold", {"png": png()}, at_index="text_missing"),
        Sample("unseen", dict(told), at_index="media_missing"),
        Sample("link", link, at_index="member_unsafe"),
        Sample("../upwards", {"png": png(), **told}, at_index="member_unsafe"),
        Sample(f"{outside}/absolute", {"png": png(), **told}, at_index="member_unsafe"),
        Sample("no-json", {"png": png(), "json": b'{"caption": '}, at_index="json_invalid"),
        # Its header is whole.
        Sample("cut", {"jpg": noise[: len(noise) // 2], **told}, at_reading="image_corrupt"),
        # Large, so that its middle is not covered by the shard's fingerprint.
        Sample("changed", {"png": png(300, 250), **told}, at_reading="member_changed"),
        Sample("last", {"png": png(), **told}),
    ]


def sounds() -> list[Sample]:
    told = {"json": document(text=["a hiss", "noise"])}
    nan = np.linspace(-0.5, 0.5, 900)
    nan[450] = np.nan
    return [
        Sample("hiss", {"flac": flac(), **told}),
        Sample("tagged", {"wav": wav(), "json": document(text=[], tag=["rain", "wind"])}),
        Sample("slow", {"wav": wav(rate=8_000), **told}),
        Sample("no-rate", {"wav": without_rate(), **told}, at_index="audio_rate"),
        Sample("fast", {"wav": wav(rate=500_000), **told}, at_index="audio_rate"),
        Sample("no-sound", {"flac": b"fLaC", **told}, at_index="audio_corrupt"),
        Sample("nan", {"wav": wav(nan), **told}, at_reading="audio_nan"),
        Sample("silent", {"wav": wav(np.zeros(900)), **told}, at_reading="audio_silent"),
        Sample("short", {"wav": wav(np.full(300, 0.3)), **told}, at_reading="audio_short"),
    ]


def interleaved() -> list[Sample]:
    lists = {
        "texts": [None, "rain", None],
        "images": ["0.png", None, None],
        "audios": [None, None, "2.flac"],
    }
    other = document(texts=["x", None], images=["a.png"])
    return [
        Sample("whole", {"json": document(**lists), "0.png": png(), "2.flac": flac()}),
        Sample("lost", {"json": document(**lists), "0.png": png()}, at_index="media_missing"),
        Sample("uneven", {"json": other, "a.png": png()}, at_index="json_invalid"),
    ]


def lines() -> list[Sample]:
    return [
        Sample("1", {"": b'{"text": "one"}'}),
        Sample("2", {"": b'{"text": "two"'}, at_index="json_invalid"),
        Sample("3", {"": b'{"text": ""}'}, at_index="text_empty"),
        Sample("4", {"": b'{"title": "four"}'}, at_index="text_missing"),
        Sample("5", {"": b'{"text": "caf\xe9"}'}, at_index="json_invalid"),
        Sample("six", {"": b'{"text": "six", "id": "six"}'}),
    ]


def cut() -> list[Sample]:
    return [
        Sample("first", {"png": png(), "txt": b"whole"}),
        Sample("second", {"png": png(), "txt": b"cut off"}, at_index="tar_truncated"),
    ]


def write_tar(path: Path, samples: list[Sample]) -> None:
    members = [(s.key, extension, data) for s in samples for extension, data in s.members.items()]
    with tarfile.open(path, "w") as archive:
        for key, extension, data in members:
            member = tarfile.TarInfo(f"{key}.{extension}")
            if data is LINK:
                member.type, member.linkname = tarfile.SYMTYPE, "../outside/secret.jpg"
            member.size = len(data or b"")
            archive.addfile(member, io.BytesIO(data or b""))


def write_corpus(root: Path, outside: Path) -> dict[str, list[Sample]]:
    """The shards' contents by their stems."""
    root.mkdir()
    tars = {"cut": cut(), "documents": interleaved(), "pairs": pairs(outside), "sounds": sounds()}
    for stem, samples in tars.items():
        write_tar(root / f"{stem}.tar", samples)
    os.truncate(root / "cut.tar", (root / "cut.tar").read_bytes().index(b"cut off") + 3)
    text = b"\n".join(data or b"" for sample in lines() for data in sample.members.values())
    (root / "text.jsonl").write_bytes(text)
    return {**tars, "text": lines()}


def flip_a_byte(root: Path, contents: Mapping[str, list[Sample]]) -> None:
    (data,) = (s.members["png"] for s in contents["pairs"] if s.key == "changed")
    assert data
    shard = root / "pairs.tar"
    place = shard.read_bytes().index(data) + len(data) // 2
    with shard.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def feed_of(corpus: ShardCorpus) -> Feed:
    orders = [Order(corpus.shard_sizes, seed=1)]
    return Feed(corpora=[corpus], orders=orders, mixture=Mixture([1.0], seed=1), seed=1)


@dataclass(frozen=True)
class Corpus:
    """A faulty corpus that was indexed, then damaged once more, and what was written into it."""

    root: Path
    samples: dict[str, Sample]  # by the keys of their documents
    outside: dict[str, bytes]  # what lay beside the corpus before it was indexed


@pytest.fixture
def faulty(tmp_path: Path) -> Corpus:
    root, outside = tmp_path / "data", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(png())
    contents = write_corpus(root, outside)
    before = snapshot(tmp_path)
    build_indices(root)
    flip_a_byte(root, contents)
    samples = {f"{stem}/{s.key}": s for stem, group in contents.items() for s in group}
    return Corpus(root, samples, {k: v for k, v in before.items() if str(outside) in k})


def epoch_of(feed: Feed, size: int, epoch: int) -> list[Drawn]:
    return [feed.read(number) for number in range(epoch * size, (epoch + 1) * size)]


def test_every_fault_is_counted_once_by_its_cause(faulty: Corpus) -> None:
    corpus = open_shards(faulty.root)
    samples = faulty.samples.values()
    assert corpus.rejected == Counter(s.at_index for s in samples if s.at_index)
    expected = Counter(s.at_reading for s in samples if s.at_reading)
    assert len(corpus) == len(samples) - sum(corpus.rejected.values())
    feed = feed_of(corpus)
    for epoch in range(EPOCHS):
        faults = [drawn.faults for drawn in epoch_of(feed, len(corpus), epoch)]
        # What stands in may be bad itself, and is counted as well; the first is the one planned.
        assert Counter(found[0].cause for found in faults if found) == expected
        messages = {fault.message: fault.cause for found in faults for fault in found}
        assert Counter(messages.values()) == expected


def test_every_other_sample_arrives_once_an_epoch(faulty: Corpus) -> None:
    corpus = open_shards(faulty.root)
    feed, orders = feed_of(corpus), set()
    good = [k for k, s in faulty.samples.items() if not (s.at_index or s.at_reading)]
    for epoch in range(EPOCHS):
        drawn = epoch_of(feed, len(corpus), epoch)
        keys = [item.document.key for item in drawn if not item.faults]
        assert sorted(keys) == sorted(good)
        assert {item.document.key for item in drawn} == set(good)
        assert {item.epoch for item in drawn} == {epoch}
        orders.add(tuple(keys))
    assert len(orders) == EPOCHS


def test_nothing_is_written_outside_and_no_link_is_followed(faulty: Corpus) -> None:
    corpus = open_shards(faulty.root)
    epoch_of(feed_of(corpus), len(corpus), 0)
    parent = faulty.root.parent
    everything = snapshot(parent)
    assert {k: v for k, v in everything.items() if not k.startswith(str(faulty.root))} == (
        faulty.outside
    )
    names = {path.name for path in faulty.root.rglob("*")}
    shards = {"cut.tar", "documents.tar", "pairs.tar", "sounds.tar", "text.jsonl"}
    assert names == shards | {f"{shard}.index.npz" for shard in shards} | {"index.json"}
    assert {path.name for path in parent.iterdir()} == {"data", "outside"}


def red(image: np.ndarray) -> bool:
    return bool((np.abs(image - np.array([255.0, 0, 0])) < 8).all())


RIGHT: dict[str, Callable[[np.ndarray], bool]] = {
    "animated": lambda image: image.shape == (20, 30, 3) and red(image),
    "cmyk": lambda image: image.shape == (20, 30, 3) and red(image),
    "deep": lambda image: image.shape == (20, 30, 3) and set(image.flat) == {0x80},
    "turned": lambda image: (
        image.shape == (32, 16, 3) and red(image[:15]) and red(image[17:, :, ::-1])
    ),
}


@pytest.mark.parametrize("key", RIGHT)
def test_unusual_images_have_the_right_pixels(faulty: Corpus, key: str) -> None:
    corpus = open_shards(faulty.root)
    drawn = epoch_of(feed_of(corpus), len(corpus), 0)
    found = [item.document for item in drawn if item.document.key == f"pairs/{key}"]
    image = found[0].parts[0]
    assert isinstance(image, np.ndarray)
    assert RIGHT[key](image)


def test_a_shard_removed_after_indexing_is_the_user_s_to_restore(faulty: Corpus) -> None:
    corpus = open_shards(faulty.root)
    (faulty.root / "documents.tar").unlink()
    with pytest.raises(UserError, match=r"shard documents\.tar of the index is missing") as caught:
        open_shards(faulty.root)
    assert not isinstance(caught.value, BadSample)
    # Of a run that has begun its samples are replaced, and counted.
    drawn = epoch_of(feed_of(corpus), len(corpus), 0)
    causes = Counter(item.faults[0].cause for item in drawn if item.faults)
    assert causes["unreadable"] == sum(k.startswith("documents/") for k in usable(faulty)) == 1
    assert all(isinstance(item.document, Document) for item in drawn)


def usable(faulty: Corpus) -> list[str]:
    return [key for key, sample in faulty.samples.items() if not sample.at_index]
