"""Shards as the field's own library writes and reads them: what it wrote reads back identical, and
it reads what we wrote."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.data.document import Recording
from common.data.shards.build import build_indices
from common.data.shards.corpus import open_shards
from common.data.shards.writer import ShardWriter

webdataset = pytest.importorskip("webdataset")


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(256, size=(9 + number, 14, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def flac(number: int) -> bytes:
    wave = np.random.default_rng(number).uniform(-0.5, 0.5, 900 + number)
    stream = io.BytesIO()
    soundfile.write(stream, wave, 16_000, format="FLAC")
    return stream.getvalue()


def test_a_tar_of_img2dataset_reads_back_identical(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "%05d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(11):
            facts = {"caption": f"picture {number}", "url": f"http://x/{number}.png", "width": 14}
            sample = {"png": png(number), "txt": f"picture {number}", "json": facts}
            writer.write({"__key__": f"{number // 4:05d}{number:04d}", **sample})
    build_indices(tmp_path)
    corpus = open_shards(tmp_path)
    assert corpus.shard_sizes == (4, 4, 3)
    for number in range(11):
        document = corpus.read(number)
        assert document.key == f"{number // 4:05d}/{number // 4:05d}{number:04d}"
        assert document.caption == f"picture {number}"
        assert np.array_equal(document.parts[0], np.array(Image.open(io.BytesIO(png(number)))))
        assert corpus.members(number)["png"] == png(number)


def test_a_tar_of_clap_reads_back_identical_and_its_captions_take_turns(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(7):
            texts = [f"sound {number}", f"noise {number}"]
            facts = {"text": texts, "tag": ["noise"], "original_data": {"id": number}}
            writer.write({"__key__": str(number), "flac": flac(number), "json": facts})
    build_indices(tmp_path)
    corpus = open_shards(tmp_path)
    for number in range(7):
        documents = [corpus.read(number, variant=epoch) for epoch in range(3)]
        captions = [document.caption for document in documents]
        assert captions == [f"sound {number}", f"noise {number}", f"sound {number}"]
        recording = documents[0].parts[0]
        assert isinstance(recording, Recording)
        samples, _ = soundfile.read(io.BytesIO(flac(number)), dtype="float32")
        assert np.array_equal(recording.samples, samples)


def test_the_library_reads_what_we_wrote(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, samples_per_shard=3) as writer:
        for number in range(5):
            lists = {"texts": [None, f"text {number}"], "images": ["0.png", None]}
            members = {"json": json.dumps(lists).encode(), "0.png": png(number)}
            writer.write(f"document{number}", members)
    shards = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"document{n}" for n in range(5)]
    for number, sample in enumerate(samples):
        assert sample["0.png"] == png(number)
        assert json.loads(sample["json"])["texts"] == [None, f"text {number}"]
