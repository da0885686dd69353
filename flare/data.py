"""Mixed documents as training batches: rows for the language model, and captions as rows of theirs.

A row packs several documents, each masked, causal or cm3 (`flare.masking`). A caption that sees its
image would make the contrast trivial, so captions are packed once more, as documents of their own
ending in `<emb>`, into rows at the end of the batch. Everything that is an index is computed here,
on the CPU, so that a step on a device never waits for the host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from common.data.augmentation import AugmentConfig, augment
from common.data.document import Document, Recording
from common.data.feed import Drawn, Feed, merged
from common.data.packing import PackedRow, PackState, Room, Size, pack
from common.data.randomness import generator_at
from common.errors import UserError
from common.objectives.language import IGNORED
from flare.encoding import (
    AUDIO_TEXT,
    IMAGE_TEXT,
    Caption,
    DocumentEncoder,
    FlareExample,
    added_by,
)
from flare.instruct.task_encoding import encode_dialogue
from flare.masking import MaskingConfig
from flare.media import Clips, grouped
from flare.processing import MIN_SAMPLES
from flare.safety.task_answers import Answers, answers_in

MASKED_TERM, CAUSAL_TERM = "language/masked", "language/causal"
PREFERENCE = "preference"
PAIR_TERMS = (IMAGE_TEXT, AUDIO_TEXT)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Ids to predict; `positions` are those that predict, one before the targets, in b * s."""

    positions: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class PairIndex:
    """Which media belong to which captions.

    `media` counts the batch's images or clips, `text` is the place of the caption's `<emb>` in
    b * s; `caption_ids` are equal for equal captions.
    """

    media: Int[Tensor, " p"]
    text: Int[Tensor, " p"]
    caption_ids: Int[Tensor, " p"]


@dataclass(frozen=True, kw_only=True)
class FlareBatch:
    """Rows padded on the right, padding being a document of its own; the last rows hold captions.

    Images are flat, in reading order row by row; there may be none, and no recordings either.
    """

    keys: list[str]
    input_ids: Int[Tensor, "b s"]
    document_ids: Int[Tensor, "b s"]
    bidirectional: Bool[Tensor, "b s"]
    num_caption_rows: int
    pixel_values: UInt8[Tensor, "m c y x"]
    clips: Clips
    targets: dict[str, Targets]
    pairs: dict[str, PairIndex]
    answers: Answers | None = None  # in runs on pairs alone

    def __len__(self) -> int:
        return len(self.input_ids)

    def text(self) -> "FlareBatch":
        """The same rows, whose media are taken for known."""
        return replace(
            self,
            pixel_values=self.pixel_values[:0],
            clips=self.clips.none(),
        )

    def captions(self) -> "FlareBatch":
        """The rows of captions alone, at least one row, without media and without targets."""
        first = len(self.input_ids) - max(self.num_caption_rows, 1)
        skipped = first * self.input_ids.shape[1]
        return replace(
            self.text(),
            keys=[],
            input_ids=self.input_ids[first:],
            document_ids=self.document_ids[first:],
            bidirectional=self.bidirectional[first:],
            targets={},
            answers=None,
            pairs={t: replace(p, text=p.text - skipped) for t, p in self.pairs.items()},
        )

    def padded(self, num_rows: int) -> "FlareBatch":
        """With empty rows behind, each one document."""
        missing = num_rows - len(self.input_ids)
        return replace(
            self,
            input_ids=pad(self.input_ids, (0, 0, 0, missing)),
            document_ids=pad(self.document_ids, (0, 0, 0, missing)),
            bidirectional=pad(self.bidirectional, (0, 0, 0, missing)),
        )


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """Training data with random access: rows packed with as many documents as fit."""

    feed: Feed
    encoder: DocumentEncoder
    masking: MaskingConfig
    batch_size: int  # rows
    weight: float
    max_tokens: int  # of a row
    steps: int  # updates of the run
    augment_steps: int  # updates during which images are augmented
    augmentation: AugmentConfig
    seed: int
    # Log-probabilities of pairs' answers before training, by key; None: there are no pairs.
    references: Mapping[str, Sequence[float]] | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < self.encoder.least_tokens:
            raise UserError(
                f"rows of {self.max_tokens} tokens have no room for an image or a clip and a word; "
                f"use max_tokens={self.encoder.least_tokens} or more"
            )

    @property
    def digest(self) -> str:
        """Of the documents and their order."""
        return self.feed.digest

    def pack(self, update: int, state: PackState) -> tuple[list[PackedRow], PackState]:
        """The documents of every row of an update."""
        room = Room(tokens=self.max_tokens)
        rows, state = pack(self._size, state, num_rows=self.batch_size, room=room)
        return [PackedRow(update, numbers) for numbers in rows], state

    def example(self, row: PackedRow) -> FlareExample:
        """A row's documents, one after another."""
        sizes = [self._size(number).tokens for number in row.numbers]
        # All media first: what encodes the texts stays in the processor's caches then.
        all_drawn = [self._drawn(number, row.update) for number in row.numbers]
        examples, supplies, spare = [], [], self.max_tokens - sum(sizes)
        for number, drawn, size in zip(row.numbers, all_drawn, sizes, strict=True):
            # What stands in for a bad sample may be longer; it may take what the row has to spare.
            example, is_cut = self._encoded(drawn, number, row.update, max_tokens=size + spare)
            spare += size - len(example.ids)
            examples.append(example)
            supplies.append(drawn.supply(is_cut=is_cut))
        return replace(join(examples), supply=merged(supplies))

    def collate(self, examples: Sequence[FlareExample]) -> FlareBatch:
        """Rows of one batch, all of the same length."""
        batch = collate(examples, encoder=self.encoder, width=self.max_tokens)
        if self.references is None:
            return batch
        return replace(batch, answers=answers_in(examples, width=self.max_tokens))

    def _size(self, number: int) -> Size:
        extent = self.feed.extent(number)
        tokens = self.encoder.length(extent) + added_by(self.masking.objective)
        return Size(
            tokens=min(tokens, self.max_tokens), images=extent.num_images, clips=extent.num_clips
        )

    def _drawn(self, number: int, update: int) -> Drawn:
        """The document at a number as this update sees it, its images at the model's size."""
        is_augmented, size = update < self.augment_steps, self.encoder.image_size
        least_side = self.augmentation.least_side(size) if is_augmented else size
        drawn = self.feed.read(number, least_side=least_side)
        document = self._augmented(drawn.document, number) if is_augmented else drawn.document
        return replace(drawn, document=self.encoder.fitted(document))

    def _encoded(
        self, drawn: Drawn, number: int, update: int, *, max_tokens: int
    ) -> tuple[FlareExample, bool]:
        """One document of a row, and whether it lost its end."""
        if drawn.document.dialogue is not None:
            # Where nothing is trained, as in a dry run, there are no references.
            reference = (self.references or {}).get(drawn.document.key, (0.0, 0.0))
            return encode_dialogue(
                self.encoder, drawn.document, max_tokens=max_tokens, reference=reference
            )
        generator = generator_at(seed=self.seed, index=number, stream="flare/form")
        form = self.masking.draw_form(update / self.steps, generator)
        ids = self.encoder.tokens(drawn.document)
        example = self.encoder.encode(
            drawn.document,
            ids,
            generator,
            form=form,
            mask_rate=self.masking.mask_rate(update / self.steps),
            max_tokens=max_tokens,
        )
        return example, len(ids) + added_by(form) > max_tokens

    def _augmented(self, document: Document, number: int) -> Document:
        generator = generator_at(seed=self.seed, index=number, stream="flare/augment")
        parts = (
            part
            if isinstance(part, str | Recording)
            else augment(part, generator, config=self.augmentation)
            for part in document.parts
        )
        return replace(document, parts=tuple(parts))


def join(examples: Sequence[FlareExample]) -> FlareExample:
    """Several documents as one packed row, documents and media numbered through."""
    captions, answers, num_media = [], [], dict.fromkeys(PAIR_TERMS, 0)
    starts = accumulate((len(example.ids) for example in examples), initial=0)
    for example, start in zip(examples, starts, strict=False):
        answers += [replace(answer, first=answer.first + start) for answer in example.answers]
        captions += [
            Caption(
                term=caption.term,
                medium=caption.medium + num_media[caption.term],
                ids=caption.ids,
                caption_id=caption.caption_id,
            )
            for caption in example.captions
        ]
        num_media[IMAGE_TEXT] += len(example.images)
        num_media[AUDIO_TEXT] += len(example.clips)
    return FlareExample(
        key="+".join(example.key for example in examples),
        ids=torch.cat([example.ids for example in examples]),
        labels=torch.cat([example.labels for example in examples]),
        documents=_renumbered([example.documents for example in examples]),
        bidirectional=torch.cat([example.bidirectional for example in examples]),
        images=tuple(image for example in examples for image in example.images),
        clips=tuple(clip for example in examples for clip in example.clips),
        captions=tuple(captions),
        answers=tuple(answers),
        supply=merged(example.supply for example in examples),
    )


def collate(
    examples: Sequence[FlareExample], *, encoder: DocumentEncoder, width: int | None = None
) -> FlareBatch:
    """Rows padded to a width, or to the longest, followed by the rows of their captions."""
    whole = join(examples)  # media and captions of the batch, numbered through
    lengths = [len(caption.ids) for caption in whole.captions]
    width = width or max(*(len(example.ids) for example in examples), *lengths, 0)
    places = _first_fit(lengths, width=width)
    rows = [*examples, *_caption_rows(whole.captions, [row for row, _ in places])]
    labels = _padded([row.labels for row in rows], IGNORED, width)
    bidirectional = _padded([row.bidirectional for row in rows], False, width)
    last = [(len(examples) + row) * width + end - 1 for row, end in places]
    return FlareBatch(
        keys=[example.key for example in examples],
        input_ids=_padded(
            [row.ids for row in rows], encoder.processor.tokenizer.pad_token_id, width
        ),
        document_ids=_padded(
            [row.documents for row in rows],
            max(int(row.documents.max()) for row in rows) + 1,
            width,
        ),
        bidirectional=bidirectional,
        num_caption_rows=len(rows) - len(examples),
        pixel_values=_stacked(whole.images, size=encoder.image_size),
        clips=grouped(whole.clips, groups=encoder.clip_groups, least=MIN_SAMPLES),
        targets={
            MASKED_TERM: _targets(labels, bidirectional),
            CAUSAL_TERM: _targets(labels, ~bidirectional),
        },
        pairs={term: _pair_index(term, whole.captions, last) for term in PAIR_TERMS},
    )


def _stacked(images: Sequence[Tensor], *, size: int) -> UInt8[Tensor, "m c y x"]:
    """One tensor, its channels named before its sides but stored last, as images come."""
    none = np.zeros((0, size, size, 3), dtype=np.uint8)
    # numpy asks for large pages where torch does not; the system then has fewer to clear and map.
    stacked = np.stack([image.numpy() for image in images]) if images else none
    return rearrange(torch.from_numpy(stacked), "m y x c -> m c y x")


def _first_fit(lengths: Sequence[int], *, width: int) -> list[tuple[int, int]]:
    """(row, end in the row) of each length, in the first row with room for it.

    Lengths 3 4 2 in rows of 5 -> (0, 3) (1, 4) (0, 5).
    """
    used: list[int] = []
    places = []
    for length in lengths:
        row = next((i for i, end in enumerate(used) if end + length <= width), len(used))
        if row == len(used):
            used.append(0)
        used[row] += length
        places.append((row, used[row]))
    return places


def _caption_rows(captions: Sequence[Caption], rows: Sequence[int]) -> list[FlareExample]:
    """Captions as packed causal documents without targets and without media."""
    packed: list[list[Tensor]] = [[] for _ in range(max(rows, default=-1) + 1)]
    for caption, row in zip(captions, rows, strict=True):
        packed[row].append(caption.ids)
    return [
        FlareExample(
            key="",
            ids=(whole := torch.cat(ids)),
            labels=torch.full_like(whole, IGNORED),
            documents=_numbered(ids),
            bidirectional=torch.zeros_like(whole, dtype=torch.bool),
            images=(),
            clips=(),
            captions=(),
        )
        for ids in packed
    ]


def _numbered(pieces: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, " z"]:
    """For every token of all pieces the number of its piece."""
    return torch.arange(len(pieces)).repeat_interleave(torch.tensor([len(ids) for ids in pieces]))


def _renumbered(pieces: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, " z"]:
    """Documents of several examples, counted on: 0 0 | 0 1 -> 0 0 1 2."""
    firsts = accumulate((int(piece[-1]) + 1 for piece in pieces), initial=0)
    return torch.cat([piece + first for piece, first in zip(pieces, firsts, strict=False)])


def _padded(rows: Sequence[Tensor], value: int, width: int) -> Tensor:
    first, *rest = rows
    first = pad(first, (0, width - len(first)), value=value)
    return pad_sequence([first, *rest], batch_first=True, padding_value=value)


def _targets(labels: Int[Tensor, "b s"], chosen: Bool[Tensor, "b s"]) -> Targets:
    places = ((labels != IGNORED) & chosen).flatten().nonzero()[:, 0]
    return Targets(positions=places - 1, ids=labels.flatten()[places])


def _pair_index(term: str, captions: Sequence[Caption], last: Sequence[int]) -> PairIndex:
    """The captions of one term; `last` has the place of every caption's `<emb>`."""
    chosen = [
        (c.medium, place, c.caption_id)
        for c, place in zip(captions, last, strict=True)
        if c.term == term
    ]
    media, text, ids = torch.tensor(chosen, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return PairIndex(media=media, text=text, caption_ids=ids)
