"""A trained FLARE as evaluations ask for it: it writes and weighs answers, predicts documents, and
puts images, recordings and captions into the spaces in which training contrasts them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from common.checkpoint.pretrained import model_type, read_config, read_model, read_processor
from common.data.conversations.messages import Part
from common.data.document import Document, Image, Recording
from common.data.prompts import completed
from common.data.transfer import on_device
from common.errors import UserError
from common.evaluation.likelihoods import answer_ids, log_probabilities
from common.evaluation.models import LENGTH_PENALTY, Prompt
from flare import passes
from flare.config import FlareConfig
from flare.data import CAUSAL_TERM, FlareBatch, Targets, collate
from flare.encoding import DocumentEncoder
from flare.generation import complete, logits_after, read
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor

# Between an example and a turn without a medium, which else would go on in the same line.
SEPARATOR = "\n"


class EvaluatedFlare:
    """`common.evaluation.models`: a Writer, a Reader, and an embedder of all three kinds.

    Examples follow one another in one document, as training shows them:
    `<s> <image> Output: red <image> Output: blue`.
    """

    def __init__(self, model: FlareForConditionalGeneration, processor: FlareProcessor) -> None:
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self._encoder = DocumentEncoder(
            processor=processor,
            image_size=model.config.vision_config.image_size,
            max_samples=sys.maxsize,
            clip_groups=1,
        )

    def write(self, prompts: Sequence[Prompt], *, max_new_tokens: int, num_beams: int) -> list[str]:
        """What the model answers, up to the end of the document or of the line."""
        texts = complete(
            self.model,
            self.processor,
            [_parts(prompt) for prompt in prompts],
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            length_penalty=LENGTH_PENALTY,
        )
        return [text.split(SEPARATOR)[0].strip() for text in texts]

    def log_likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Of the answers' own tokens; the end of the document is not among them.

        Raises:
            UserError: a prompt has no answer, or an empty one.
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
        """As training counts in causal documents: all text, and the end of the document."""
        batch = self._batch(documents)
        target, width = batch.targets[CAUSAL_TERM], batch.input_ids.shape[1]
        # A term of the loss for each document.
        own = {
            str(row): Targets(positions=target.positions[chosen], ids=target.ids[chosen])
            for row in range(len(documents))
            for chosen in [target.positions // width == row]
        }
        x = passes.start(self.model, batch).hidden
        x = passes.advance(self.model, self.model.decoder.blocks, x, batch)
        sums = passes.finish(self.model, replace(batch, targets=own), x, z_loss=0.0).losses
        return [(float(sums[row]), len(own[row].ids)) for row in own]

    @torch.no_grad()
    def image_vectors(self, images: Sequence[Image]) -> Float[Tensor, "m e"]:
        """From the head that training contrasts with captions."""
        batch = self._batch(_alone(images))
        return F.normalize(self.model.encode_images(batch.pixel_values).vectors.float(), dim=-1)

    @torch.no_grad()
    def sound_vectors(self, sounds: Sequence[Recording]) -> Float[Tensor, "m e"]:
        """The same for recordings."""
        encoded = passes.encode_clips(self.model, self._batch(_alone(sounds)).clips)
        return F.normalize(encoded.vectors.float(), dim=-1)

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """From the hidden states at `<emb>` behind each caption."""
        rows = [self.processor.encode_caption(text) for text in texts]
        pad = partial(self.processor.tokenizer.pad, padding=True, return_tensors="pt")
        output = self.model(
            **pad({"input_ids": rows}).to(self.model.device),
            use_cache=False,
            logits_to_keep=1,
            output_hidden_states=True,
        )
        vectors = self.model.text_vectors(output.hidden_states[-1][:, -1])
        return F.normalize(vectors.float(), dim=-1)

    def _batch(self, documents: Sequence[Document]) -> FlareBatch:
        """A causal row for each document, as long as it is, without a contrast."""
        unused = np.random.default_rng(0)
        examples = [
            self._encoder.encode(
                replace(document, caption=None),
                self._encoder.tokens(document),
                unused,
                form="causal",
                mask_rate=0.0,
                max_tokens=sys.maxsize,
            )
            for document in documents
        ]
        batch: FlareBatch = on_device(collate(examples, encoder=self._encoder), self.model.device)
        return batch


def load(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> EvaluatedFlare:
    """The model that training exported into a folder.

    Raises:
        UserError: there is none, one of another kind, or one of which a part is missing.
    """
    if (found := model_type(folder)) != FlareConfig.model_type:
        raise UserError(f"{folder} holds a model of type {found}, no FLARE; give another folder")
    config = read_config(folder)
    model = read_model(FlareForConditionalGeneration, folder, config=config, dtype=dtype)
    return EvaluatedFlare(model.to(device), read_processor(FlareProcessor, folder))


def _parts(prompt: Prompt) -> list[Part]:
    parts: list[Part] = []
    for turn in prompt:
        if parts and not turn.media:
            parts.append(SEPARATOR)
        text = turn.text if turn.answer is None else completed(turn.text, turn.answer)
        parts += [*turn.media, text]
    return parts


def _alone(media: Sequence[Image | Recording]) -> list[Document]:
    return [Document(key=str(place), parts=(medium,)) for place, medium in enumerate(media)]
