"""From one mixed document to the ids, labels, images and clips of a row.

A document too long is cut, but never inside the slots of an image or a clip: these go whole, with
the image or the clip. Targets are text, and in causal documents the closing `</s>`; no other
control token is ever predicted or hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, UInt8
from torch import Tensor

from common.data.captions import caption_id
from common.data.conversations.messages import Picture
from common.data.document import Document, Extent, Image, Recording
from common.data.feed import Supply
from common.data.images import resize_and_centre_crop
from common.errors import UserError
from common.objectives.language import IGNORED
from flare.masking import MOST_SPANS, Form, cm3, corrupt
from flare.processing import MIN_SAMPLES, FlareProcessor

IMAGE_TEXT, AUDIO_TEXT = "image_text", "audio_text"


@dataclass(frozen=True, kw_only=True)
class Caption:
    """`<s> caption <emb>`, and which of the images (or clips) it describes."""

    term: str  # of the contrast: `image_text` or `audio_text`
    medium: int
    ids: Int[Tensor, " s"]
    caption_id: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One of the two answers of a pair: where its tokens lie, and how likely it was at first."""

    first: int
    num: int
    reference: float  # log-probability before training


@dataclass(frozen=True, kw_only=True)
class FlareExample:
    """One row before padding; `labels` are the original ids of targets, in the targets' places."""

    key: str
    ids: Int[Tensor, " s"]
    labels: Int[Tensor, " s"]
    documents: Int[Tensor, " s"]
    bidirectional: Bool[Tensor, " s"]
    images: tuple[UInt8[Tensor, "y x c"], ...]
    clips: tuple[Tensor, ...]
    captions: tuple[Caption, ...]
    answers: tuple[Answer, ...] = ()  # of pairs, the preferred one of each first
    supply: Supply = field(default_factory=Supply)


@dataclass(frozen=True, kw_only=True)
class DocumentEncoder:
    """Turns a document into one row; everything random comes from the generator."""

    processor: FlareProcessor
    image_size: int
    max_samples: int  # of a clip
    clip_groups: int  # in which a batch's recordings are heard

    def __post_init__(self) -> None:
        if self.max_samples < MIN_SAMPLES:
            raise UserError(
                f"max_samples={self.max_samples} is too short to hear; use at least {MIN_SAMPLES}"
            )
        if self.clip_groups < 1:
            raise UserError(f"clip_groups={self.clip_groups}: one group is the least")

    @property
    def least_tokens(self) -> int:
        """With fewer, a document of one image or clip and a word would lose it, in some form."""
        return 2 + max(self.processor.image_queries, self.processor.audio_queries) + 2 * MOST_SPANS

    def length(self, extent: Extent) -> int:
        """Tokens of a whole document, without reading it."""
        media = extent.num_images * self.processor.image_queries
        return 2 + extent.tokens + media + extent.num_clips * self.processor.audio_queries

    def fitted(self, document: Document) -> Document:
        """The document with its images as the model takes them."""
        parts = tuple(
            part
            if isinstance(part, str | Recording)
            else resize_and_centre_crop(part, size=self.image_size)
            for part in document.parts
        )
        return replace(document, parts=parts)

    def tokens(self, document: Document) -> Int[np.ndarray, " s"]:
        """The whole document's ids."""
        return np.array(self.processor.encode_document(document.parts))

    def encode(
        self,
        document: Document,
        ids: Int[np.ndarray, " s"],
        generator: np.random.Generator,
        *,
        form: Form,
        mask_rate: float,
        max_tokens: int,
    ) -> FlareExample:
        """A document with its `tokens`, cut to `max_tokens`, that teaches what its form says."""
        original = self._fitted(ids, max_tokens - added_by(form))
        taught, labels = self._taught(original, generator, form=form, mask_rate=mask_rate)
        images, clips = self._media(document, original, is_cut=len(original) < len(ids))
        term = _contrast_of(document, num_images=len(images), num_clips=len(clips))
        return self.example(
            document,
            ids=torch.from_numpy(taught),
            labels=torch.from_numpy(labels),
            documents=torch.zeros(len(taught), dtype=torch.int64),
            is_bidirectional=form == "masked",
            images=images,
            clips=clips,
            captions=() if term is None else (self._caption(document, ids, term, max_tokens),),
        )

    def example(
        self,
        document: Document,
        *,
        ids: Int[Tensor, " s"],
        labels: Int[Tensor, " s"],
        documents: Int[Tensor, " s"],
        is_bidirectional: bool = False,
        images: Sequence[Picture],
        clips: Sequence[Recording],
        captions: tuple[Caption, ...] = (),
    ) -> FlareExample:
        """What is known of a document's ids, with its media as the model takes them."""
        return FlareExample(
            key=document.key,
            ids=ids,
            labels=labels,
            documents=documents,
            bidirectional=torch.full((len(ids),), is_bidirectional),
            images=tuple(self._pixels(np.asarray(image)) for image in images),
            clips=tuple(self._clip(clip) for clip in clips),
            captions=captions,
        )

    def _caption(
        self, document: Document, ids: Int[np.ndarray, " s"], term: str, max_tokens: int
    ) -> Caption:
        """Of a caption too long the last words go."""
        assert document.caption is not None
        whole = self._caption_ids(document.caption, document, ids)
        if len(whole) > max_tokens:
            whole = np.append(whole[: max_tokens - 1], whole[-1])
        return Caption(
            term=term,
            medium=0,
            ids=torch.from_numpy(whole),
            caption_id=caption_id(document.caption),
        )

    def _caption_ids(
        self, caption: str, document: Document, ids: Int[np.ndarray, " s"]
    ) -> Int[np.ndarray, " z"]:
        """`<s> caption <emb>`; mostly it is the document's only text, whose ids are known."""
        if [part for part in document.parts if isinstance(part, str)] != [caption]:
            return np.array(self.processor.encode_caption(caption))
        processor = self.processor
        own = ids[(ids != processor.image_token_id) & (ids != processor.audio_token_id)]
        own[-1] = processor.emb_token_id  # in the place of `</s>`
        return own

    @cached_property
    def _is_control(self) -> Bool[np.ndarray, " v"]:
        """By id."""
        table = np.zeros(len(self.processor.tokenizer), dtype=np.bool_)
        table[self.processor.control_ids] = True
        return table

    @cached_property
    def _plain_ids(self) -> range:
        return self.processor.plain_ids

    @cached_property
    def _end_id(self) -> int:
        return self.processor.tokenizer.eos_token_id

    def _fitted(self, ids: Int[np.ndarray, " s"], limit: int) -> Int[np.ndarray, " z"]:
        """At most `limit` tokens, media slots whole."""
        if len(ids) <= limit:
            return ids
        end, processor = limit, self.processor
        if ids[end] == processor.image_token_id:
            end -= self._count(ids[:end], processor.image_token_id) % processor.image_queries
        elif ids[end] == processor.audio_token_id:
            end -= self._count(ids[:end], processor.audio_token_id) % processor.audio_queries
        return ids[:end]

    def _taught(
        self,
        ids: Int[np.ndarray, " s"],
        generator: np.random.Generator,
        *,
        form: Form,
        mask_rate: float,
    ) -> tuple[Int[np.ndarray, " z"], Int[np.ndarray, " z"]]:
        """Ids as the model reads them, and the labels."""
        is_text = ~self._is_control[ids]
        mask_id, end_id = self.processor.mask_token_id, self._end_id
        if form == "masked":
            corrupted, is_target = corrupt(
                ids,
                is_text,
                generator,
                rate=mask_rate,
                mask_id=mask_id,
                random_ids=self._plain_ids,
            )
            return corrupted, np.where(is_target, ids, IGNORED)
        if form == "cm3":
            ids = cm3(ids, is_text, generator, mask_id=mask_id, end_id=end_id)
            is_text = ~self._is_control[ids]
        is_target = is_text | (ids == end_id)
        is_target[0] = False  # some tokenizers begin documents with what ends them
        return ids, np.where(is_target, ids, IGNORED)

    def _media(
        self, document: Document, ids: Int[np.ndarray, " s"], *, is_cut: bool
    ) -> tuple[list[Image], list[Recording]]:
        """The images and clips whose slots are left."""
        media = [part for part in document.parts if not isinstance(part, str)]
        clips = [part for part in media if isinstance(part, Recording)]
        images = [part for part in media if not isinstance(part, Recording)]
        if not is_cut:
            return images, clips
        processor = self.processor
        num_images = self._count(ids, processor.image_token_id) // processor.image_queries
        num_clips = self._count(ids, processor.audio_token_id) // processor.audio_queries
        return images[:num_images], clips[:num_clips]

    def _pixels(self, image: Image) -> UInt8[Tensor, "y x c"]:
        return torch.from_numpy(resize_and_centre_crop(image, size=self.image_size))

    def _clip(self, recording: Recording) -> Float32[Tensor, " t"]:
        """The first `max_samples` samples; silence follows what is shorter than one frame."""
        samples = torch.from_numpy(recording.samples[: self.max_samples])
        return torch.nn.functional.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))

    @staticmethod
    def _count(ids: Int[np.ndarray, " s"], token_id: int) -> int:
        return int((ids == token_id).sum())


def added_by(form: str) -> int:
    """Tokens that a form, or the objective of that name, may add to a document."""
    return 2 * MOST_SPANS if form == "cm3" else 0


def _contrast_of(document: Document, *, num_images: int, num_clips: int) -> str | None:
    """The term of its caption, unless there is none or its medium was cut off."""
    if document.caption is None:
        return None
    if sum(not isinstance(part, str) for part in document.parts) != 1:
        raise ValueError(f"{document.key} has a caption, but not exactly one image or clip")
    if num_images + num_clips == 0:
        return None
    return IMAGE_TEXT if num_images else AUDIO_TEXT
