"""A Flamingo as the demo page shows it: it talks, continues examples, tells which pictures are
alike, and shows where its words look."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from common.data.document import Document, Image, text_and_images
from common.data.images import resize_and_centre_crop
from common.demo.abilities import Demonstrated, DocumentPart
from common.demo.card import model_card
from common.evaluation.plots import attention_picture
from flamingo.attention_map import attention_map
from flamingo.chat import flamingo_chat
from flamingo.evaluated import EvaluatedFlamingo, load
from flamingo.generation import complete


def demonstrated(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Demonstrated:
    """The model of a folder.

    Raises:
        UserError: there is no Flamingo in the folder, or a part of it is missing.
    """
    loaded = load(folder, device=device, dtype=dtype)
    name, card = model_card(folder, loaded.model, kind="Flamingo")
    return Demonstrated(
        name=name,
        card=card,
        hears=False,
        num_examples=4,
        start_chat=partial(flamingo_chat, loaded.model, loaded.processor),
        completer=_Completer(loaded),
        embedder=loaded,
        draw_attention=partial(_draw_attention, loaded),
    )


class _Completer:
    """`common.demo.abilities.Completer`."""

    def __init__(self, loaded: EvaluatedFlamingo) -> None:
        self.model, self.processor = loaded.model, loaded.processor

    def complete(self, parts: Sequence[DocumentPart], *, max_new_tokens: int) -> str:
        return complete(
            self.model,
            self.processor,
            [_seen(parts)],
            max_new_tokens=max_new_tokens,
        )[0]

    def as_read(self, parts: Sequence[DocumentPart]) -> str:
        ids = self.processor.encode_document(_seen(parts), closed=False)
        return str(self.processor.tokenizer.decode(ids))


def _draw_attention(loaded: EvaluatedFlamingo, parts: Sequence[DocumentPart], file: Path) -> None:
    document = _seen(parts)
    seen = attention_map(loaded.model, loaded.processor, [*document])
    tokenizer, size = loaded.processor.tokenizer, loaded.model.config.vision_config.image_size
    side = round(seen.patches.shape[1] ** 0.5)
    attention_picture(
        [resize_and_centre_crop(part, size=size) for part in document if not isinstance(part, str)],
        [tokenizer.convert_tokens_to_string([token]).strip() for token in seen.tokens],
        seen.images.float().cpu().numpy(),
        path=file,
        heat_maps=seen.patches.reshape(-1, side, side).float().cpu().numpy(),
    )


def _seen(parts: Sequence[DocumentPart]) -> list[str | Image]:
    """Parts of a document for a model that does not hear."""
    return list(text_and_images(Document(key="the prompt", parts=tuple(parts))))
