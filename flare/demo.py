"""A FLARE as the demo page shows it: it talks about pictures and sounds, continues examples, and
finds what belongs together."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from common.demo.abilities import Demonstrated, DocumentPart
from common.demo.card import model_card
from flare.chat import flare_chat
from flare.evaluated import EvaluatedFlare, load
from flare.generation import complete


def demonstrated(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Demonstrated:
    """The model of a folder.

    Raises:
        UserError: there is no FLARE in the folder, or a part of it is missing.
    """
    loaded = load(folder, device=device, dtype=dtype)
    name, card = model_card(folder, loaded.model, kind="FLARE")
    return Demonstrated(
        name=name,
        card=card,
        hears=True,
        num_examples=0,  # its training shows it no examples that a document begins with
        start_chat=partial(flare_chat, loaded.model, loaded.processor),
        completer=_Completer(loaded),
        embedder=loaded,
    )


class _Completer:
    """`common.demo.abilities.Completer`."""

    def __init__(self, loaded: EvaluatedFlare) -> None:
        self.model, self.processor = loaded.model, loaded.processor

    def complete(self, parts: Sequence[DocumentPart], *, max_new_tokens: int) -> str:
        return complete(
            self.model,
            self.processor,
            [parts],
            max_new_tokens=max_new_tokens,
        )[0]

    def as_read(self, parts: Sequence[DocumentPart]) -> str:
        ids = self.processor.encode_document(parts, closed=False)
        return str(self.processor.tokenizer.decode(ids))
