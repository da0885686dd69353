"""Interleaved documents and pairs as training batches (paper, section 2.4 and appendix A.3).

A row packs one or more documents; each document's text looks at its own images only. A token is a
target when it is bound to an image and is no `<image>` itself: text before the first image teaches
nothing about images and stays unlabelled, `<|endofchunk|>` is learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.data.augmentation import AugmentConfig, augment
from common.data.document import Document, Extent, Image, text_and_images
from common.data.feed import Feed, Supply, merged
from common.data.images import resize_and_centre_crop
from common.data.packing import PackedRow, PackState, Room, Size, pack
from common.data.randomness import generator_at
from common.objectives.language import IGNORED
from flamingo.conversations import fitting_dialogue
from flamingo.media import check_image_counts, next_item, previous_item
from flamingo.processing import FlamingoProcessor


@dataclass(frozen=True, kw_only=True)
class FlamingoExample:
    """One row before padding. `items` counts the row's images from 1; 0 sees none."""

    key: str
    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    items: Int[Tensor, " s"]
    documents: Int[Tensor, " s"]
    images: UInt8[Tensor, "m c y x"]
    is_cut: bool = False  # it lost its end
    supply: Supply = field(default_factory=Supply)


@dataclass(frozen=True, kw_only=True)
class FlamingoBatch:
    """Rows padded on the right; padding is a document of its own that sees nothing."""

    keys: list[str]
    input_ids: Int[Tensor, "b s"]
    labels: Int[Tensor, "b s"]
    media_item: Int[Tensor, "b s"]
    document_ids: Int[Tensor, "b s"]
    pixel_values: UInt8[Tensor, "b m c y x"]
    num_images: Int[Tensor, " b"]


@dataclass(frozen=True, kw_only=True)
class DocumentEncoder:
    """Turns a document into the ids, labels and images of a row."""

    processor: FlamingoProcessor
    image_size: int
    max_tokens: int
    max_images: int

    def size(self, extent: Extent) -> Size:
        """What a document will take in a row, at most."""
        bos = int(self.processor.tokenizer.bos_token_id is not None)
        images, chunks = extent.num_images, max(1, extent.num_images)
        tokens = bos + extent.tokens + images + chunks
        return Size(tokens=min(tokens, self.max_tokens), images=min(images, self.max_images))

    def encode(
        self, document: Document, *, bind_next: bool, max_tokens: int | None = None
    ) -> FlamingoExample:
        """One document; text is bound to the image before it, or after it with `bind_next`.

        It is cut to `max_tokens`, if given, and at most to the encoder's own. Of a dialogue the
        assistant's words are the targets.
        """
        if document.dialogue is not None:
            return self._encode_dialogue(document, max_tokens=max_tokens or self.max_tokens)
        parts = text_and_images(document)
        whole = torch.tensor(self.processor.encode_document(parts, closed=True))
        images = [part for part in parts if not isinstance(part, str)]
        is_image = whole == self.processor.image_token_id
        check_image_counts(is_image.sum()[None], torch.tensor([len(images)]), [document.key])
        ids = whole[: self._tokens_that_fit(is_image, max_tokens or self.max_tokens)]
        is_image = is_image[: len(ids)]
        one_document = torch.zeros_like(ids)
        bind = next_item if bind_next else previous_item
        items = bind(is_image[None], one_document[None])[0]
        labels = torch.where((items > 0) & ~is_image, ids, IGNORED)
        labels[:1] = IGNORED  # nothing predicts the first token, also of a packed document
        return FlamingoExample(
            key=document.key,
            ids=ids,
            labels=labels,
            items=items,
            documents=one_document,
            images=self._stack(images[: int(is_image.sum())]),
            is_cut=len(ids) < len(whole),
        )

    def _encode_dialogue(self, document: Document, *, max_tokens: int) -> FlamingoExample:
        chat, is_cut = fitting_dialogue(
            self.processor, document, max_tokens=max_tokens, max_images=self.max_images
        )
        ids, one_document = torch.tensor(chat.ids), torch.zeros(len(chat), dtype=torch.long)
        is_image = ids == self.processor.image_token_id
        return FlamingoExample(
            key=document.key,
            ids=ids,
            labels=ids.masked_fill(~torch.tensor(chat.is_target), IGNORED),
            items=previous_item(is_image[None], one_document[None])[0],
            documents=one_document,
            images=self._stack([np.asarray(image) for image in chat.images]),
            is_cut=is_cut,
        )

    def _tokens_that_fit(self, is_image: Tensor, max_tokens: int) -> int:
        """At most `max_tokens` tokens and `max_images` images; the rest of a document is cut."""
        places = is_image.nonzero()[:, 0]
        if len(places) > self.max_images:
            return min(max_tokens, int(places[self.max_images]))
        return max_tokens

    def _stack(self, images: Sequence[Image]) -> UInt8[Tensor, "m c y x"]:
        """Channels named before sides but stored last, as images come."""
        size = self.image_size
        if not images:
            return torch.zeros(0, 3, size, size, dtype=torch.uint8)
        fitted = np.stack([resize_and_centre_crop(image, size=size) for image in images])
        return rearrange(torch.from_numpy(fitted), "m y x c -> m c y x")


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """Training data with random access: rows packed with as many documents as fit."""

    feed: Feed
    encoder: DocumentEncoder
    batch_size: int  # rows
    weight: float
    next_image_probability: float  # the paper's p_next, drawn per document
    augment_steps: int  # updates during which images are augmented
    augmentation: AugmentConfig
    seed: int

    @property
    def digest(self) -> str:
        """Of the documents and their order."""
        return self.feed.digest

    def pack(self, update: int, state: PackState) -> tuple[list[PackedRow], PackState]:
        """The documents of every row of an update."""
        room = Room(tokens=self.encoder.max_tokens, images=self.encoder.max_images)
        rows, state = pack(self._size, state, num_rows=self.batch_size, room=room)
        return [PackedRow(update, numbers) for numbers in rows], state

    def example(self, row: PackedRow) -> FlamingoExample:
        """A row's documents, one after another."""
        sizes = [self._size(number) for number in row.numbers]
        examples, spare = [], self.encoder.max_tokens - sum(size.tokens for size in sizes)
        for number, size in zip(row.numbers, sizes, strict=True):
            # What stands in for a bad sample may be longer; it may take what the row has to spare.
            example = self._encoded(number, row.update, max_tokens=size.tokens + spare)
            spare += size.tokens - len(example.ids)
            examples.append(example)
        return join(examples)

    def collate(self, examples: Sequence[FlamingoExample]) -> FlamingoBatch:
        """Rows of one batch, all of the same length."""
        padding_id = self.encoder.processor.tokenizer.pad_token_id
        return collate(examples, padding_id=padding_id, width=self.encoder.max_tokens)

    def _size(self, number: int) -> Size:
        return self.encoder.size(self.feed.extent(number))

    def _encoded(self, number: int, update: int, *, max_tokens: int) -> FlamingoExample:
        """The document at a number, in its place."""
        is_augmented, size = update < self.augment_steps, self.encoder.image_size
        least_side = self.augmentation.least_side(size) if is_augmented else size
        drawn = self.feed.read(number, least_side=least_side)
        generator = generator_at(seed=self.seed, index=number, stream="flamingo/document")
        bind_next = bool(generator.random() < self.next_image_probability)
        document = drawn.document
        if is_augmented:
            document = self._augmented(document, generator)
        example = self.encoder.encode(document, bind_next=bind_next, max_tokens=max_tokens)
        return replace(example, supply=drawn.supply(is_cut=example.is_cut))

    def _augmented(self, document: Document, generator: np.random.Generator) -> Document:
        parts = (
            part if isinstance(part, str) else augment(part, generator, config=self.augmentation)
            for part in text_and_images(document)
        )
        return replace(document, parts=tuple(parts))


def join(examples: Sequence[FlamingoExample]) -> FlamingoExample:
    """Several documents as one packed row, images numbered through."""
    items, num_images = [], 0
    for example in examples:
        items.append(torch.where(example.items > 0, example.items + num_images, 0))
        num_images += len(example.images)
    return FlamingoExample(
        key="+".join(example.key for example in examples),
        ids=torch.cat([example.ids for example in examples]),
        labels=torch.cat([example.labels for example in examples]),
        items=torch.cat(items),
        documents=torch.cat([torch.full_like(e.ids, i) for i, e in enumerate(examples)]),
        images=torch.cat([example.images for example in examples]),
        supply=merged(example.supply for example in examples),
    )


def collate(
    examples: Sequence[FlamingoExample], *, padding_id: int, width: int | None = None
) -> FlamingoBatch:
    """Pads rows to a width, or to the longest, and image lists to the longest list."""
    width = width or max(len(example.ids) for example in examples)

    def padded(name: str, value: int) -> Tensor:
        first, *rest = (getattr(example, name) for example in examples)
        first = torch.nn.functional.pad(first, (0, width - len(first)), value=value)
        return pad_sequence([first, *rest], batch_first=True, padding_value=value)

    most_documents = max(int(example.documents.max()) for example in examples) + 1
    return FlamingoBatch(
        keys=[example.key for example in examples],
        input_ids=padded("ids", padding_id),
        labels=padded("labels", IGNORED),
        media_item=padded("items", 0),
        document_ids=padded("documents", most_documents),
        pixel_values=_grid([example.images for example in examples]),
        num_images=torch.tensor([len(example.images) for example in examples]),
    )


def _grid(rows: Sequence[UInt8[Tensor, "_ c y x"]]) -> UInt8[Tensor, "b m c y x"]:
    """Images stored with their channels last, as they come; rows with fewer end in black."""
    _, channels, height, width = rows[0].shape
    most = max(len(images) for images in rows)
    grid = np.zeros((len(rows), most, height, width, channels), dtype=np.uint8)
    for place, images in zip(grid, rows, strict=True):
        place[: len(images)] = rearrange(images, "m c y x -> m y x c").numpy()
    return rearrange(torch.from_numpy(grid), "b m y x c -> b m c y x")
