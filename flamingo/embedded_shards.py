"""Flamingo's generated training documents as shards, a folder for each kind: what training would
generate at the same seed, in the same order, decoded from disk as the user's data is."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from transformers import PreTrainedTokenizerBase

from common.data.document import Document
from common.data.embedded.shards import write_indexed
from flamingo.caption_pairs import generated_pairs
from flamingo.corpora import Generated, generated
from flamingo.language_pretraining import text_documents

# Pairs are the vision encoder's stage, texts the language model's.
Stored = Generated | Literal["pairs", "texts"]
STORED: tuple[Stored, ...] = (*get_args(Generated), "pairs", "texts")


def write_generated(
    folder: Path,
    kind: Stored,
    *,
    num: int,
    seed: int,
    family_size: int,
    digit_share: float,
    prose_share: float,
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Write the first `num` training documents of a kind; how many there are.

    `family_size` and `digit_share` are the pairs' only, `prose_share` is the texts'.

    Raises:
        UserError: the folder holds anything else.
    """
    made_by: dict[str, object] = {"model": "flamingo", "kind": kind, "num": num, "seed": seed}
    draw: Callable[[int], Document]
    if kind == "pairs":
        draw = generated_pairs(seed=seed, family_size=family_size, digit_share=digit_share)
        made_by |= {"family_size": family_size, "digit_share": digit_share}
    elif kind == "texts":
        draw = text_documents("train", prose_share=prose_share, seed=seed)
        made_by |= {"prose_share": prose_share}
    else:
        draw = partial(generated, kind, "train", seed)
    return write_indexed(folder, map(draw, range(num)), made_by=made_by, tokenizer=tokenizer)
