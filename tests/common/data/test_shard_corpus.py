"""Reading shards: documents of every layout, faults and stale indices, many processes, scale."""

import io
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from tokenizers import Tokenizer, models
from transformers import TokenizersBackend

from common.data.document import Document, Extent, Recording
from common.data.faults import BadSample
from common.data.shards.build import build_indices
from common.data.shards.corpus import OPEN_SHARDS, ShardCorpus, open_shards
from common.data.shards.index import IndexDraft, Span, Summary
from common.data.shards.manifest import entry_of, write_manifest
from common.data.shards.shard import index_path
from common.data.shards.tokens import (
    join_extents,
    save_extents,
    shard_tokens_path,
    tokenizer_digest,
)
from common.errors import UserError
from tests.timing import within

PIXELS = np.random.default_rng(3).integers(256, size=(5, 7, 3), dtype=np.uint8)
WAVE = np.random.default_rng(4).uniform(-0.5, 0.5, 800).astype(np.float32)


def png() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, WAVE, 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_dataset(root: Path) -> None:
    """Every layout: an image pair, a sound with three captions, two documents, two texts."""
    root.mkdir(exist_ok=True)
    sound = {"text": ["one", "two", "three"], "tag": ["unused"]}
    texts = {"texts": [None, " a ", None], "images": ["0.PNG", None, None]}
    captioned = {"texts": [None, "Output: x"], "images": ["0.png", None], "caption": "x"}
    documents = {
        "d.json": json.dumps(texts | {"audios": [None, None, "2.wav"]}).encode(),
        "d.0.PNG": png(),
        "d.2.wav": wav(),
        "c.json": json.dumps(captioned).encode(),
        "c.0.png": png(),
    }
    write_tar(root / "00000.tar", {"i.png": png(), "i.txt": b" caption\n", "i.json": b"{}"})
    write_tar(root / "deep" / "1.tar", {"s.wav": wav(), "s.json": json.dumps(sound).encode()})
    write_tar(root / "deep" / "2.tar", documents)
    (root / "text.jsonl").write_text('{"text": "first"}\n\n{"text": " second "}\n')


def opened(root: Path) -> ShardCorpus:
    build_indices(root)
    return open_shards(root)


@pytest.fixture
def corpus(tmp_path: Path) -> ShardCorpus:
    write_dataset(tmp_path / "data")
    return opened(tmp_path / "data")


def simple(document: Document) -> list[object]:
    """Parts as text or `image`/`sound`, after comparing media with what was written."""
    parts: list[object] = []
    for part in document.parts:
        if isinstance(part, Recording):
            np.testing.assert_array_equal(part.samples, WAVE)
        elif isinstance(part, np.ndarray):
            np.testing.assert_array_equal(part, PIXELS)
        medium = "sound" if isinstance(part, Recording) else "image"
        parts.append(part if isinstance(part, str) else medium)
    return parts


def test_documents_of_every_layout_are_read(corpus: ShardCorpus) -> None:
    documents = [corpus.read(index) for index in range(len(corpus))]
    assert [(d.key, simple(d), d.caption) for d in documents] == [
        ("00000/i", ["image", "caption"], "caption"),
        ("deep/1/s", ["sound", "one"], "one"),
        ("deep/2/d", ["image", " a ", "sound"], None),
        ("deep/2/c", ["image", "Output: x"], "x"),
        ("text/1", ["first"], None),
        ("text/3", [" second "], None),
    ]
    assert (corpus.name, list(corpus.shard_sizes)) == ("data", [1, 1, 2, 2])


def test_variants_go_round_the_captions(corpus: ShardCorpus) -> None:
    captions = [corpus.read(1, variant=variant).caption for variant in range(5)]
    assert captions == ["one", "two", "three", "one", "two"]


def test_tags_stand_in_where_there_is_no_text(tmp_path: Path) -> None:
    tags = b'{"text": "", "tag": ["dog", "bark"]}'
    write_tar(tmp_path / "0.tar", {"s.wav": wav(), "s.json": tags})
    assert opened(tmp_path).read(0).caption == "dog, bark"


def test_a_reduced_image_still_has_the_least_side(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (640, 400), "red").save(buffer, "JPEG")
    write_tar(tmp_path / "0.tar", {"a.jpg": buffer.getvalue(), "a.txt": b"red"})
    corpus = opened(tmp_path)
    sides = [np.shape(corpus.read(0, least_side=side).parts[0])[0] for side in (400, 100)]
    assert sides == [400, 100]


def test_members_are_the_bytes_that_were_written(corpus: ShardCorpus) -> None:
    assert corpus.members(0) == {"png": png(), "txt": b" caption\n", "json": b"{}"}
    assert corpus.members(5) == {"json": b'{"text": " second "}'}


def test_a_changed_byte_is_found_by_its_crc(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(200_000)  # more than the fingerprint covers
    write_tar(tmp_path / "0.tar", {"a.png": png() + noise, "a.txt": b"a", "b.png": png()})
    corpus = opened(tmp_path)
    data = bytearray((tmp_path / "0.tar").read_bytes())
    data[100_000] ^= 1
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(BadSample, match=r"0\.tar/a has changed at byte 512") as caught:
        open_shards(tmp_path).read(0)
    assert caught.value.cause == "member_changed"
    assert corpus.rejected == {"text_missing": 1}


def test_a_shard_cut_under_an_open_corpus_is_unreadable(
    corpus: ShardCorpus, tmp_path: Path
) -> None:
    corpus.read(2)
    os.truncate(tmp_path / "data" / "deep" / "2.tar", 700)
    with pytest.raises(BadSample) as caught:
        corpus.read(3)
    assert caught.value.cause == "unreadable"


def grow(root: Path) -> None:
    with (root / "00000.tar").open("ab") as file:
        file.write(bytes(512))


def damage_index(root: Path) -> None:
    (root / "index.json").write_text('{"version": 1, "shards": [{"file": "00000.tar"}]}')


CHANGES: dict[str, Callable[[Path], object]] = {
    "size differs": grow,
    "00000.tar of the index is missing": lambda root: (root / "00000.tar").unlink(),
    "shard z.tar is not in the index": lambda root: shutil.copy(root / "00000.tar", root / "z.tar"),
    "has no index": lambda root: (root / "index.json").unlink(),
    "is damaged": damage_index,
    "version 0": lambda root: (root / "index.json").write_text('{"version": 0}'),
}


@pytest.mark.parametrize("fault", CHANGES)
def test_a_stale_index_is_named_with_its_remedy(tmp_path: Path, fault: str) -> None:
    write_dataset(tmp_path)
    build_indices(tmp_path)
    CHANGES[fault](tmp_path)
    with pytest.raises(UserError, match=fault) as caught:
        open_shards(tmp_path)
    assert f"`python scripts/prepare_data.py index {tmp_path}`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, BadSample)


def test_another_shard_of_the_same_size_is_found_at_its_first_reading(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    build_indices(tmp_path)
    path = tmp_path / "00000.tar"
    path.write_bytes(path.read_bytes().replace(b"caption", b"another"))
    corpus = open_shards(tmp_path)
    assert corpus.read(4).parts == ("first",)
    with pytest.raises(UserError, match=r"00000\.tar is not the one that was indexed"):
        corpus.read(0)


def test_extents_need_a_tokenizer(corpus: ShardCorpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without a tokenizer"):
        corpus.extent(0)
    with pytest.raises(UserError, match=r"index .* --tokenizer DIR"):
        open_shards(tmp_path / "data", tokenizer=any_tokenizer())


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    same = [opened(tmp_path / name).digest for name in "ab"]
    write_tar(tmp_path / "b" / "deep" / "1.tar", {"s.wav": wav(), "s.json": b'{"text": "x"}'})
    assert same[0] == same[1] != opened(tmp_path / "b").digest


def keys_in_order(corpus: ShardCorpus, order: list[int]) -> list[str]:
    return [corpus.read(index).key for index in order]


def test_forked_processes_and_copies_read_alike(corpus: ShardCorpus) -> None:
    order = np.random.default_rng(1).integers(len(corpus), size=60).tolist()
    expected = keys_in_order(corpus, order)  # the descriptors are open before the fork
    copy = pickle.loads(pickle.dumps(corpus))
    assert (keys_in_order(copy, order), copy.digest) == (expected, corpus.digest)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        answers = pool.starmap_async(keys_in_order, [(corpus, order)] * 6)
        assert keys_in_order(corpus, order) == expected
        assert answers.get(timeout=60) == [expected] * 6


def test_no_more_shards_stay_open_than_are_allowed(tmp_path: Path) -> None:
    for number in range(OPEN_SHARDS + 9):
        (tmp_path / f"{number:03d}.jsonl").write_text(f'{{"text": "{number}"}}\n')
    corpus = opened(tmp_path)
    before = num_open(tmp_path)
    for _ in range(2):
        assert [corpus.read(n).parts[0] for n in range(len(corpus))] == [
            str(n) for n in range(len(corpus))
        ]
    assert num_open(tmp_path) - before == OPEN_SHARDS
    del corpus
    assert num_open(tmp_path) == before


def num_open(folder: Path) -> int:
    """Files of a folder that this process has open; others may be closed at any time."""
    return sum(folder in entry.resolve().parents for entry in Path("/proc/self/fd").iterdir())


def any_tokenizer() -> TokenizersBackend:
    return TokenizersBackend(tokenizer_object=Tokenizer(models.BPE()))


def write_synthetic_index(root: Path, *, num_shards: int, num_samples: int) -> None:
    """An index of image pairs whose shards are holes of the right size."""
    tokenizer = tokenizer_digest(any_tokenizer())
    summary = Summary(kind="image", num_texts=1, num_images=1, num_clips=0, width=7, height=5)
    entries = []
    for shard in range(num_shards):
        path = root / f"{shard:05d}.tar"
        with path.open("wb") as file:
            file.truncate(num_samples * 2048)
        draft = IndexDraft()
        for n in range(num_samples):
            spans = {"jpg": Span(n * 2048, 900, n), "txt": Span(n * 2048 + 1024, 90, n)}
            draft.add(f"{shard:05d}{n:04d}", spans, summary)
        index = draft.finished(fingerprint="", rejected={}, damage=None)
        index.save(index_path(path))
        rows = np.arange(shard * num_samples, (shard + 1) * num_samples)[:, None]
        extents = np.concatenate([rows, rows * 0 + (1, 1, 0)], axis=1).astype(np.int32)
        save_extents(shard_tokens_path(path, tokenizer), extents)
        entries.append(entry_of(path.name, num_bytes=num_samples * 2048, index=index))
    write_manifest(root, entries)
    pieces = [shard_tokens_path(root / entry.file, tokenizer) for entry in entries]
    corpus = ShardCorpus(root, entries).digest
    join_extents(
        root / f"index.tokens-{tokenizer}-{corpus}.npy", pieces, size=num_shards * num_samples
    )


@pytest.mark.slow
def test_a_million_samples_open_at_once_and_are_measured_in_any_order(tmp_path: Path) -> None:
    write_synthetic_index(tmp_path, num_shards=100, num_samples=10_000)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    corpus = within(2, lambda: open_shards(tmp_path, tokenizer=any_tokenizer()))
    order = np.random.default_rng(2).integers(len(corpus), size=50_000).tolist()
    # 100 us each; an array loaded anew takes thousands
    extents = within(5, lambda: [corpus.extent(index) for index in order])
    assert [extent.tokens for extent in extents] == order
    assert extents[0] == Extent(tokens=order[0], num_texts=1, num_images=1, num_clips=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kilobytes
