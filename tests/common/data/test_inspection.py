"""Facts of a data set: numbers that are known beforehand, and faults that were planted."""

import io
import json
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from common.data.document import Document
from common.data.embedded.shards import write_indexed
from common.data.embedded.tokenizer import train_tokenizer
from common.data.inspection import (
    corpus_facts,
    count_tokens,
    read_all,
    some_documents,
    spread_of,
    token_facts,
)
from common.data.shards.build import build_indices
from common.data.shards.corpus import open_shards
from common.data.shards.writer import ShardWriter
from common.errors import UserError
from common.evaluation.data_plots import samples_picture

TEXTS = [f"picture {'of a hill ' * number}" for number in range(1, 10)]


def png(*, width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def wav(*, seconds: float) -> bytes:
    stream = io.BytesIO()
    wave = 0.2 * np.sin(np.arange(round(16_000 * seconds)) * 0.05)
    soundfile.write(stream, wave, 16_000, format="WAV")
    return stream.getvalue()


def write(folder: Path, samples: Mapping[str, dict[str, bytes]]) -> Path:
    with ShardWriter(folder, samples_per_shard=4) as writer:
        for key, members in samples.items():
            writer.write(key, members)
    build_indices(folder)
    return folder


def pictures() -> dict[str, dict[str, bytes]]:
    return {
        f"p{number}": {"png": png(width=40 + number, height=33), "txt": text.encode()}
        for number, text in enumerate(TEXTS)
    }


def sounds() -> dict[str, dict[str, bytes]]:
    captions = json.dumps({"text": ["a hum", "something hums"]}).encode()
    return {f"s{n}": {"wav": wav(seconds=n), "json": captions} for n in (1, 2)}


def test_facts_are_those_of_the_samples(tmp_path: Path) -> None:
    broken = {"b0": {"png": b"broken", "txt": b"a"}, "b1": {"png": png(width=9, height=9)}}
    root = write(tmp_path / "set", {**pictures(), **sounds(), **broken})
    facts = corpus_facts(root, num_texts=3)
    assert facts.num_shards == 4
    assert facts.num_bytes == sum(path.stat().st_size for path in root.glob("*.tar"))
    assert facts.kinds == {"image": 9, "audio": 2}
    assert facts.parts == {"texts": 11, "images": 9, "clips": 2}
    assert facts.short_side is not None
    assert astuple(facts.short_side) == (33, 33, 33, 33, 33)
    assert facts.long_side is not None
    assert (facts.long_side.least, facts.long_side.median, facts.long_side.greatest) == (40, 44, 48)
    assert facts.seconds is not None
    assert (facts.seconds.least, facts.seconds.greatest) == (1, 2)
    assert facts.hours == pytest.approx(3 / 3600)
    lengths = sorted([*(len(text.strip()) for text in TEXTS), 5, 5])
    assert facts.characters is not None
    assert facts.characters.median == lengths[5]
    assert facts.characters.greatest == lengths[-1]
    assert len(facts.texts) == 3
    assert facts.rejected == {"image_corrupt": 1, "text_missing": 1}


def test_a_spread_is_that_of_all_numbers() -> None:
    spread = spread_of(np.arange(101)[::-1])
    assert spread is not None
    assert astuple(spread) == (0, 5, 50, 95, 100)
    assert spread_of(np.zeros(0)) is None


def test_tokens_and_rows_are_those_of_the_texts(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    root = write(tmp_path / "set", pictures())
    build_indices(root, tokenizer=tokenizer)
    lengths = [len(tokenizer(text.strip())["input_ids"]) for text in TEXTS]
    assert count_tokens(root, tokenizer).tolist() == lengths
    facts = token_facts(root, tokenizer=tokenizer, row_tokens=max(lengths) - 1)
    assert facts.num_tokens == sum(lengths)
    assert facts.num_longer == 1
    assert 0.7 < facts.fill <= 1
    assert facts.num_rows >= (sum(lengths) - 1) / (max(lengths) - 1)


def test_reading_everything_counts_what_cannot_be_read(tmp_path: Path) -> None:
    large = [png(width=190, height=200, seed=seed) for seed in range(3)]
    samples = {f"p{n}": {"png": data, "txt": b"noise"} for n, data in enumerate(large)}
    cut = png(width=90, height=80)[:2000]  # whole at the header, all that an index looks at
    root = write(tmp_path / "set", {**samples, "cut": {"png": cut, "txt": b"a hill"}})
    data = bytearray((root / "00000.tar").read_bytes())
    data[data.index(large[1]) + len(large[1]) // 2] ^= 1  # far from the ends, which are looked at
    (root / "00000.tar").write_bytes(data)
    steps: list[tuple[int, int]] = []
    report = read_all(open_shards(root), progress=lambda *step: steps.append(step))
    assert report.num_samples == 4
    assert report.faults == {"member_changed": 1, "image_corrupt": 1}
    assert "p1" in report.examples["member_changed"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    kept = some_documents(open_shards(root), 4)
    assert [document.key for document in kept] == ["00000/p0", "00000/p2"]


def test_a_sheet_shows_every_kind_of_part(tmp_path: Path) -> None:
    corpus = open_shards(write(tmp_path / "set", {**pictures(), **sounds()}))
    documents = [*some_documents(corpus, 5), Document(key="text", parts=("costs $5 and $6",))]
    assert {len(document.parts) for document in documents} == {1, 2}
    samples_picture(documents, tmp_path / "sheet.png")
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 1280
        assert len(set(np.asarray(sheet.convert("L"))[::7, ::7].ravel().tolist())) > 50


def test_a_complete_folder_is_not_made_again(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    made_by = {"kind": "hills", "seed": 3}
    documents = [Document(key=f"t{number}", parts=(text,)) for number, text in enumerate(TEXTS)]
    folder = tmp_path / "hills"

    def broken() -> Document:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_indexed(
            folder,
            (broken() if number == 4 else documents[number] for number in range(9)),
            made_by=made_by,
            tokenizer=tokenizer,
        )
    assert not folder.exists()
    assert write_indexed(folder, documents, made_by=made_by, tokenizer=tokenizer) == 9
    never = (broken() for _ in range(9))
    assert write_indexed(folder, never, made_by=made_by, tokenizer=tokenizer) == 9
    with pytest.raises(UserError, match="of other settings"):
        write_indexed(folder, never, made_by={"kind": "lakes"}, tokenizer=tokenizer)
