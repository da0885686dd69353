"""Perplexity of documents is that of all their predicted tokens together, whatever the batches."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from common.data.document import Document
from common.data.embedded.shards import write_documents
from common.data.shards.build import build_indices
from common.errors import UserError
from common.evaluation.models import Reader
from common.evaluation.scores import SuiteResult
from common.evaluation.suites.perplexity import PerplexityConfig, run_perplexity
from common.evaluation.work import Workplace
from common.training.processes import Processes
from tests.common.evaluation.threads import in_threads

TEXTS = [f"café number {n} " + "x" * (n * n) for n in range(30)]


class Characters:
    """Predicts every character but the first, each with its own certainty."""

    def losses(self, documents: Sequence[Document]) -> list[tuple[float, int]]:
        texts = ["".join(p for p in item.parts if isinstance(p, str)) for item in documents]
        return [(sum(loss_of(letter) for letter in text[1:]), len(text) - 1) for text in texts]


def loss_of(letter: str) -> float:
    return 0.3 if letter == "x" else 2.5


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def evaluate(
    folder: Path, config: PerplexityConfig, *, limit: int | None = None, batch_size: int = 4
) -> SuiteResult:
    work = Workplace(folder=folder, batch_size=batch_size, limit=limit)
    return run_perplexity(config, Characters(), work)


def test_sums_and_counts_make_perplexity_and_bits_per_byte(jsonl: Path, tmp_path: Path) -> None:
    assert isinstance(Characters(), Reader)
    losses = [loss_of(letter) for text in TEXTS for letter in text[1:]]
    result = evaluate(tmp_path / "a", PerplexityConfig(documents=jsonl))
    words, bits = result.scores
    assert (words.metric, words.num) == ("perplexity", 30)
    assert words.value == pytest.approx(math.exp(sum(losses) / len(losses)))
    assert words.interval is not None
    assert words.interval[0] < words.value < words.interval[1]
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert bits.value == pytest.approx(sum(losses) / math.log(2) / num_bytes)
    assert f"{len(losses):,} predicted tokens, {num_bytes:,} bytes" in result.notes[0]

    def rank(processes: Processes) -> SuiteResult:
        work = Workplace(folder=tmp_path / "ranks", batch_size=4, processes=processes)
        return run_perplexity(PerplexityConfig(documents=jsonl), Characters(), work)

    assert [own.scores for own in in_threads(2, rank)] == [result.scores] * 2


def test_shards_and_files_of_equal_documents_and_held_out_ones(jsonl: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_documents(shards, [Document(key=f"{n:02d}", parts=(t,)) for n, t in enumerate(TEXTS)])
    build_indices(shards)
    for part, num in (("all", 30), ("held_out", 1)):
        own = [
            evaluate(tmp_path / f"{path.name}-{part}", PerplexityConfig(documents=path, part=part))
            for path in (jsonl, shards)
        ]
        assert own[0].scores == own[1].scores
        assert own[0].scores[0].num == num
    limited = evaluate(tmp_path / "few", PerplexityConfig(documents=jsonl), limit=7)
    assert limited.scores[0].num == 7


def test_a_loss_that_is_no_number_is_no_figure(jsonl: Path, tmp_path: Path) -> None:
    class Broken:
        def losses(self, documents: Sequence[Document]) -> list[tuple[float, int]]:
            return [(math.nan, 3)] * len(documents)

    work = Workplace(folder=tmp_path / "nan", batch_size=4)
    with pytest.raises(UserError, match="the loss is nan a token"):
        run_perplexity(PerplexityConfig(documents=jsonl), Broken(), work)


def test_what_cannot_be_read_is_counted_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (5, 4)).save(pairs / f"{name}.png")
        (pairs / f"{name}.txt").write_text(f"caption {name}")
    (pairs / "b.png").write_bytes(b"no image")
    config = PerplexityConfig(documents=pairs, kind="image_pairs")
    result = evaluate(tmp_path / "some", config, batch_size=2)
    assert result.scores[0].num == 2
    assert result.notes[1:] == ("1 of 3 documents: image_corrupt",)
    for name in ("a", "c"):
        (pairs / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no document of which the model predicts a token"):
        evaluate(tmp_path / "none", config)
