"""A trained Flamingo as evaluations ask for it: it writes and weighs answers, predicts documents,
and its frozen vision encoder tells how alike two images are. It does not embed texts: the
contrastive stage's text tower is not exported."""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from common.checkpoint.pretrained import model_type, read_config, read_model, read_processor
from common.data.document import Document, Image, Recording, text_and_images
from common.data.images import resize_and_centre_crop
from common.data.prompts import completed
from common.data.transfer import on_device
from common.errors import UserError
from common.evaluation.likelihoods import answer_ids, log_probabilities
from common.evaluation.models import LENGTH_PENALTY, Medium, Prompt, Turn
from common.objectives.language import IGNORED, next_token_loss
from flamingo.config import FlamingoConfig
from flamingo.data import DocumentEncoder, FlamingoBatch, FlamingoExample, collate
from flamingo.generation import complete_after, logits_after, read
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import ChunkEnd, FlamingoProcessor, Part


class EvaluatedFlamingo:
    """`common.evaluation.models`: a Writer, a Reader and an ImageEmbedder.

    An example is a chunk of its own, whether it has an image or not:
    `<image>Output: red<|endofchunk|>`.
    """

    def __init__(
        self, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
    ) -> None:
        self.model, self.processor = model.eval().requires_grad_(False), processor

    def write(self, prompts: Sequence[Prompt], *, max_new_tokens: int, num_beams: int) -> list[str]:
        """What the model answers, up to the end of the chunk; common examples are read once.

        Raises:
            UserError: a prompt has a recording.
        """
        num_shared = _num_shared_turns(prompts)
        return complete_after(
            self.model,
            self.processor,
            _parts(prompts[0][:num_shared]),
            [_parts(prompt[num_shared:]) for prompt in prompts],
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            length_penalty=LENGTH_PENALTY,
        )

    def log_likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Of the answers' own tokens; the end of the chunk is not among them.

        Raises:
            UserError: a prompt has a recording, no answer, or an empty one.
        """
        ids = [
            answer_ids(prompt[-1].text, own, encode=self.processor.encode_text)
            for prompt, own in zip(prompts, answers, strict=True)
        ]
        begun = read(self.model, self.processor, [_parts(prompt) for prompt in prompts])
        return log_probabilities(
            begun.logits, ids, logits_after=partial(logits_after, self.model, begun)
        )

    @torch.no_grad()
    def losses(self, documents: Sequence[Document]) -> list[tuple[float, int]]:
        """As training counts: tokens that are bound to an image, and the ends of chunks.

        A document without an image counts as its language model was trained: every next token of
        its text. One longer than the language model's context is cut.

        Raises:
            UserError: a document has a recording.
        """
        examples = [self._example(document) for document in documents]
        padding = self.processor.tokenizer.pad_token_id
        batch: FlamingoBatch = on_device(collate(examples, padding_id=padding), self.model.device)
        logits = self.model(
            batch.input_ids,
            pixel_values=batch.pixel_values,
            num_images=batch.num_images,
            media_item=batch.media_item,
            document_ids=batch.document_ids,
        ).logits
        rows = zip(logits.split(1), batch.labels.split(1), strict=True)
        sums = [next_token_loss(row, labels) for row, labels in rows]
        return [(float(loss), int(count)) for loss, count in sums]

    @torch.no_grad()
    def image_vectors(self, images: Sequence[Image]) -> Float[Tensor, "m e"]:
        """Means of the frozen vision encoder's features, by which RICES compares images."""
        size = self.model.config.vision_config.image_size
        fitted = np.stack([resize_and_centre_crop(image, size=size) for image in images])
        pixels = rearrange(torch.from_numpy(fitted), "m y x c -> m c y x").to(self.model.device)
        return F.normalize(self.model.vision_encoder(pixels).float().mean(dim=1), dim=-1)

    def _example(self, document: Document) -> FlamingoExample:
        config = self.model.config
        longest = getattr(config.text_config, "max_position_embeddings", None)
        encoder = DocumentEncoder(
            processor=self.processor,
            image_size=config.vision_config.image_size,
            max_tokens=longest or sys.maxsize,
            max_images=sys.maxsize,
        )
        example = encoder.encode(document, bind_next=False)
        if not len(example.images):
            ends = example.ids == self.processor.end_of_chunk_token_id
            example.labels[1:] = torch.where(ends, IGNORED, example.ids)[1:]
        return example


def load(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> EvaluatedFlamingo:
    """The model that training exported into a folder.

    Raises:
        UserError: there is none, one of another kind, or one of which a part is missing.
    """
    if (found := model_type(folder)) != FlamingoConfig.model_type:
        raise UserError(f"{folder} holds a model of type {found}, no Flamingo; give another folder")
    config = read_config(folder)
    model = read_model(FlamingoForConditionalGeneration, folder, config=config, dtype=dtype)
    return EvaluatedFlamingo(model.to(device), read_processor(FlamingoProcessor, folder))


def _parts(turns: Sequence[Turn]) -> list[Part]:
    parts: list[Part] = []
    for turn in turns:
        seen = text_and_images(Document(key="a prompt", parts=turn.media))
        if turn.answer is None:
            parts += [*seen, turn.text]
        else:
            parts += [*seen, completed(turn.text, turn.answer), ChunkEnd()]
    return parts


def _num_shared_turns(prompts: Sequence[Prompt]) -> int:
    """How many examples all prompts begin with; the last turn is always the prompt's own."""
    examples = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(_are_equal, examples))


def _are_equal(turns: Sequence[Turn]) -> bool:
    first, *others = turns
    return all(
        (first.text, first.answer, len(first.media)) == (turn.text, turn.answer, len(turn.media))
        and all(map(_is_same, first.media, turn.media))
        for turn in others
    )


def _is_same(first: Medium, second: Medium) -> bool:
    if first is second:
        return True
    if isinstance(first, Recording) or isinstance(second, Recording):
        return False
    return np.array_equal(first, second)
