"""Where training documents come from: generated scenes and digits, or the user's own files.

A corpus is a function from an index, without end, to a document. The splits are disjoint: generated
scenes hold out combinations of attributes, of the user's records the last ones are held out.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from common.data.document import Document, Pair
from common.data.embedded.documents import (
    caption_document,
    digit_document,
    interleaved_document,
    question_document,
)
from common.data.embedded.episodes import episode_document
from common.data.embedded.tokenizer import embedded_texts, train_tokenizer
from common.data.folder import read_interleaved, read_pairs
from common.data.randomness import generator_at
from common.errors import UserError
from flamingo.processing import Part

Kind = Literal["episodes", "scenes", "scene_pairs", "interleaved", "pairs"]
CorpusSplit = Literal["train", "validation"]
Corpus = Callable[[int], Document]

EMBEDDED_VOCAB_SIZE = 1024
HELD_OUT_SHARE = 0.05  # of the user's records
MOST_HELD_OUT = 1000

# Documents of these kinds take turns.
GENERATED: dict[str, tuple[Callable[..., Document], ...]] = {
    "episodes": (episode_document,),
    "scenes": (question_document, interleaved_document),
    "scene_pairs": (caption_document, digit_document),
}


def open_corpus(kind: Kind, *, path: Path | None, split: CorpusSplit, seed: int) -> Corpus:
    """The documents of one kind; generated kinds take no path, the others need one."""
    if kind in GENERATED:
        if path is not None:
            raise UserError(f"{kind} are generated and take no path; remove {path}")
        return _generated(GENERATED[kind], split=split, seed=seed)
    if path is None:
        wanted = "a jsonl file" if kind == "interleaved" else "a folder of images"
        raise UserError(f"a source of kind {kind} needs a path: {wanted}")
    records = read_interleaved(path) if kind == "interleaved" else read_pairs(path)
    held_out = min(MOST_HELD_OUT, max(1, int(len(records) * HELD_OUT_SHARE)))
    if len(records) <= held_out:
        raise UserError(f"{path} holds {len(records)} record; at least 2 are needed, one held out")
    chosen = records[:-held_out] if split == "train" else records[-held_out:]
    place = shuffled(len(chosen), seed=seed)
    return lambda index: _as_document(chosen[place(index)].load())


def shuffled(num_records: int, *, seed: int) -> Callable[[int], int]:
    """Index without end -> record: every epoch is a permutation of its own."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        generator = generator_at(seed=seed, index=epoch, stream="epoch")
        return generator.permutation(num_records).tolist()

    return lambda index: order(index // num_records)[index % num_records]


def embedded_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    """The byte-level tokenizer of the generated corpora, for a model of `vocab_size` rows."""
    return train_tokenizer(embedded_texts(), vocab_size=min(EMBEDDED_VOCAB_SIZE, vocab_size))


def as_prompt(document: Document) -> tuple[tuple[Part, ...], str]:
    """A document up to the start of its last text, and that text."""
    *parts, last = document.parts
    if not isinstance(last, str):
        return tuple(document.parts), ""
    marker = next((mark for mark in ("Short answer:", "Output:") if mark in last), None)
    if marker is None:
        return tuple(parts), last
    prompt, answer = last.split(marker, maxsplit=1)
    return (*parts, prompt + marker), answer


def _generated(
    kinds: Sequence[Callable[..., Document]], *, split: CorpusSplit, seed: int
) -> Corpus:
    held_out = "train" if split == "train" else "unseen_scenes"
    return lambda index: kinds[index % len(kinds)](seed, index, held_out)


def _as_document(record: Document | Pair) -> Document:
    """A pair in the paper's form: `<image>caption<|endofchunk|>`."""
    if isinstance(record, Document):
        return record
    return Document(key=record.key, parts=(record.image, record.text))
