"""Where training documents come from: generated scenes and digits, or the user's own files.

A corpus is a function from an index, without end, to a document. The splits are disjoint: generated
scenes hold out combinations of attributes, of the user's records the last ones are held out.
"""

from collections.abc import Callable, Sequence
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
from common.data.epochs import CorpusSplit, records_of, shuffled
from common.data.folder import InterleavedRecord, PairRecord, read_interleaved, read_pairs
from common.errors import UserError
from flamingo.processing import Part

Kind = Literal["episodes", "scenes", "scene_pairs", "interleaved", "pairs"]
Corpus = Callable[[int], Document]

EMBEDDED_VOCAB_SIZE = 1024

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
    records: Sequence[InterleavedRecord | PairRecord] = (
        read_interleaved(path) if kind == "interleaved" else read_pairs(path)
    )
    chosen = records_of(records, path=path, split=split)
    place = shuffled(len(chosen), seed=seed)
    return lambda index: _as_document(chosen[place(index)].load())


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
