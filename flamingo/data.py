"""Interleaved documents and pairs as training batches (paper, section 2.4 and appendix A.3).

A row packs one or more documents; each document's text looks at its own images only. A token is a
target when it is bound to an image and is no `<image>` itself: text before the first image teaches
nothing about images and stays unlabelled, `<|endofchunk|>` is learnt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.data.document import Document, Image
from common.data.images import AugmentConfig, augment, resize_and_centre_crop
from common.data.randomness import generator_at
from common.objectives.language import IGNORED
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

    def to(self, device: torch.device) -> "FlamingoBatch":
        """The same batch on a device; ids stay int64 and pixels bytes."""
        return FlamingoBatch(
            keys=self.keys,
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            media_item=self.media_item.to(device, non_blocking=True),
            document_ids=self.document_ids.to(device, non_blocking=True),
            pixel_values=self.pixel_values.to(device, non_blocking=True),
            num_images=self.num_images.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class DocumentEncoder:
    """Turns a document into the ids, labels and images of a row."""

    processor: FlamingoProcessor
    image_size: int
    max_tokens: int
    max_images: int

    def encode(self, document: Document, *, bind_next: bool) -> FlamingoExample:
        """One document; text is bound to the image before it, or after it with `bind_next`."""
        ids = torch.tensor(self.processor.encode_document(document.parts, closed=True))
        images = [part for part in document.parts if not isinstance(part, str)]
        is_image = ids == self.processor.image_token_id
        check_image_counts(is_image.sum()[None], torch.tensor([len(images)]), [document.key])
        ids = ids[: self._tokens_that_fit(is_image)]
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
        )

    def _tokens_that_fit(self, is_image: Tensor) -> int:
        """At most `max_tokens` tokens and `max_images` images; the rest of a document is cut."""
        places = is_image.nonzero()[:, 0]
        if len(places) > self.max_images:
            return min(self.max_tokens, int(places[self.max_images]))
        return self.max_tokens

    def _stack(self, images: Sequence[Image]) -> UInt8[Tensor, "m c y x"]:
        size = self.image_size
        if not images:
            return torch.zeros(0, 3, size, size, dtype=torch.uint8)
        fitted = np.stack([resize_and_centre_crop(image, size=size) for image in images])
        return torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """Training data with random access; everything is a function of the position."""

    draw: Callable[[int], Document]  # document at an index, without end
    encoder: DocumentEncoder
    batch_size: int
    weight: float
    documents_per_row: int
    next_image_probability: float  # the paper's p_next, drawn per document
    augment_steps: int  # updates during which images are augmented
    augmentation: AugmentConfig
    seed: int

    def example(self, position: int) -> FlamingoExample:
        """The row at a position: its documents, packed one after another."""
        first = position * self.documents_per_row
        return join([self._document(first + i, position) for i in range(self.documents_per_row)])

    def collate(self, examples: Sequence[FlamingoExample]) -> FlamingoBatch:
        """Rows of one batch."""
        return collate(examples, padding_id=self.encoder.processor.tokenizer.pad_token_id)

    def _document(self, index: int, position: int) -> FlamingoExample:
        generator = generator_at(seed=self.seed, index=index, stream="flamingo/document")
        document = self.draw(index)
        bind_next = bool(generator.random() < self.next_image_probability)
        if position < self.augment_steps * self.batch_size:
            document = self._augmented(document, generator)
        return self.encoder.encode(document, bind_next=bind_next)

    def _augmented(self, document: Document, generator: np.random.Generator) -> Document:
        parts = (
            part if isinstance(part, str) else augment(part, generator, config=self.augmentation)
            for part in document.parts
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
    )


def collate(examples: Sequence[FlamingoExample], *, padding_id: int) -> FlamingoBatch:
    """Pads rows to the longest and image lists to the longest list."""

    def padded(name: str, value: int) -> Tensor:
        rows = [getattr(example, name) for example in examples]
        return pad_sequence(rows, batch_first=True, padding_value=value)

    most_documents = max(int(example.documents.max()) for example in examples) + 1
    return FlamingoBatch(
        keys=[example.key for example in examples],
        input_ids=padded("ids", padding_id),
        labels=padded("labels", IGNORED),
        media_item=padded("items", 0),
        document_ids=padded("documents", most_documents),
        pixel_values=pad_sequence([example.images for example in examples], batch_first=True),
        num_images=torch.tensor([len(example.images) for example in examples]),
    )
