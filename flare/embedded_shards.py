"""FLARE's generated training documents as shards, a folder for each kind: what `open_corpus` would
generate at the same seed, in the same order, decoded from disk as the user's data is."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from common.data.embedded.prose import paragraphs
from common.data.embedded.shards import write_indexed
from flare.corpora import Generated, draw_of

STORED: tuple[Generated, ...] = ("scenes", "sounds", "digits", "mixed", "prose")


def write_generated(
    folder: Path,
    kind: Generated,
    *,
    num: int,
    seed: int,
    family_size: int,
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Write the first `num` training documents of a kind, of prose all; how many there are.

    Raises:
        UserError: the folder holds anything else.
    """
    num = len(paragraphs("train")) if kind == "prose" else num
    draw = draw_of(kind, split="train", seed=seed, family_size=family_size)
    made_by = {
        "model": "flare",
        "kind": kind,
        "num": num,
        "seed": seed,
        "family_size": family_size,
    }
    return write_indexed(folder, map(draw, range(num)), made_by=made_by, tokenizer=tokenizer)
