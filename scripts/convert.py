"""Turns checkpoints of the field into folders of ours, and ours into theirs.

    python scripts/convert.py open_flamingo checkpoint.pt --to models/of-9b \\
        --language-model models/mpt-7b --vision-weights ViT-L-14.safetensors
    python scripts/convert.py idefics models/idefics-9b --to models/ours-9b
    python scripts/convert.py flamingo models/of-9b --to exported    # OpenFlamingo's checkpoint.pt
    python scripts/convert.py flamingo models/ours-9b --to exported --as idefics
    python scripts/convert.py clip models/CLIP-ViT-H-14 --to encoders/vit-h
    python scripts/convert.py language_model models/Qwen3-0.6B --to models/flare \\
        --vision encoders/vit-h --audio models/wavlm-large
    python scripts/convert.py flare models/flare --to exported    # Qwen3, CLIP and WavLM

Prints what became of every key; one that is missing, unknown or of another shape is an error that
names it. Nothing is downloaded. docs/conversion.md says what is covered; `FROM --help` what each
conversion wants. Exit status 2 for a mistake.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, get_args

from transformers.utils import logging

from common.checkpoint.clip import import_clip
from common.checkpoint.model_card import write_model_card
from common.checkpoint.pretrained import Report
from common.errors import UserError
from common.training.options import OneLineParser
from flamingo.config import FlamingoVisionConfig
from flamingo.conversion.clip import clip_vision_config
from flamingo.conversion.open_flamingo_keys import NewTokens
from flamingo.convert import (
    export_idefics,
    export_open_flamingo,
    import_idefics,
    import_open_flamingo,
)
from flare.conversion.depth import Deepening
from flare.convert import Around, export_flare, import_language_model
from flare.presets import PRESETS


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table of keys; one line and exit status 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        _print(CONVERSIONS[options.source](options))
        if options.source in INTO_OURS:
            write_model_card(options.to)
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"written to {options.to}")
    return 0


def _import_open_flamingo(options: argparse.Namespace) -> Report:
    return import_open_flamingo(
        options.path,
        options.to,
        language_model=options.language_model,
        vision_config=clip_vision_config(
            options.vision,
            image_size=options.image_size,
            layer=None if options.normed_tokens else -1,
        ),
        vision_weights=options.vision_weights,
        tokens=_tokens(options),
    )


def _export_flamingo(options: argparse.Namespace) -> Report:
    tokens = _tokens(options)
    if options.kind == "open_flamingo":
        return export_open_flamingo(options.path, options.to, tokens=tokens)
    if tokens is not None:
        raise UserError("an Idefics numbers its own tokens; leave out their ids")
    return export_idefics(options.path, options.to)


def _import_language_model(options: argparse.Namespace) -> Report:
    around = Around(
        parts=PRESETS[options.parts](),
        vision=options.vision,
        audio=options.audio,
        num_layers=options.layers,
        deepen=options.deepen,
        seed=options.seed,
    )
    return import_language_model(
        options.path, options.to, around=around, approximate=options.approximate
    )


CONVERSIONS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "open_flamingo": _import_open_flamingo,
    "idefics": lambda options: import_idefics(options.path, options.to),
    "flamingo": _export_flamingo,
    "clip": lambda options: import_clip(options.path, options.to, name=options.vision),
    "language_model": _import_language_model,
    "flare": lambda options: export_flare(options.path, options.to),
}
INTO_OURS = ("open_flamingo", "idefics", "language_model")


def _tokens(options: argparse.Namespace) -> NewTokens | None:
    ids = (options.end_of_chunk_id, options.image_id)
    if ids == (None, None):
        return None
    if None in ids:
        raise UserError("give both --end-of-chunk-id and --image-id, or neither")
    return NewTokens(end_of_chunk=ids[0], image=ids[1])


def _print(report: Report) -> None:
    width = max((len(theirs) for theirs, _, _ in report.lines), default=0)
    for theirs, how, ours in sorted(report.lines):
        print(f"{theirs:<{width}}  {how:<14}  {ours}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"{len(report.lines)} entries")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(description=__doc__)
    kinds = parser.add_subparsers(dest="source", required=True, metavar="FROM")
    _add_open_flamingo(kinds)
    _add(kinds, "idefics", "a folder of transformers' Idefics v1, to a Flamingo of ours")
    _add_flamingo(kinds)
    _add_clip(kinds)
    _add_language_model(kinds)
    _add(
        kinds,
        "flare",
        "a FLARE of ours, to the folders language_model (a Qwen3 for text alone), "
        "vision_encoder (transformers' CLIP) and audio_encoder (transformers' WavLM)",
    )
    return parser


Kinds: TypeAlias = "argparse._SubParsersAction[OneLineParser]"


def _add_open_flamingo(kinds: Kinds) -> None:
    parser = _add(
        kinds, "open_flamingo", "a checkpoint of mlfoundations/open_flamingo, to a Flamingo of ours"
    )
    parser.add_argument(
        "--language-model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the language model it was trained around, with its tokenizer",
    )
    parser.add_argument(
        "--vision",
        default="vit_large_patch14_clip_quickgelu_224",
        metavar="NAME",
        help="timm's name of its CLIP tower (default: %(default)s, OpenAI's ViT-L/14)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=FlamingoVisionConfig.image_size,
        metavar="PIXELS",
        help="height and width of its pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--vision-weights",
        type=Path,
        metavar="FILE",
        help="open_clip's weights of the tower; needed unless the checkpoint holds them",
    )
    parser.add_argument(
        "--normed-tokens",
        action="store_true",
        help="trained with open_clip 2.23 or later, whose tokens pass the tower's last norm; "
        "those of the released checkpoints, which are older, do not",
    )
    _add_tokens(parser)


def _add_flamingo(kinds: Kinds) -> None:
    parser = _add(
        kinds, "flamingo", "a Flamingo of ours, to OpenFlamingo's checkpoint.pt or to an Idefics"
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=("open_flamingo", "idefics"),
        default="open_flamingo",
        help="whose checkpoint is written; each holds models of its own shape only "
        "(default: %(default)s)",
    )
    _add_tokens(parser)


def _add_clip(kinds: Kinds) -> None:
    parser = _add(
        kinds,
        "clip",
        "a folder of transformers' CLIP or open_clip's file, to a folder of our vision encoder, "
        "which recipes and --vision of language_model read",
    )
    parser.add_argument(
        "--vision",
        metavar="NAME",
        help="timm's name of the tower in a file, e.g. vit_huge_patch14_clip_224 for ViT-H-14",
    )


def _add_language_model(kinds: Kinds) -> None:
    parser = _add(
        kinds,
        "language_model",
        "a Llama, Qwen2 or Qwen3 with its tokenizer, to a FLARE with that decoder; "
        "a Qwen3 is kept exactly",
    )
    parser.add_argument(
        "--parts",
        choices=tuple(PRESETS),
        default="flare_1b",
        help="preset of the projectors, and of encoders that no folder describes "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--vision",
        type=Path,
        metavar="PATH",
        help="trained vision encoder: a file with timm's names, or what `clip` has written "
        "(default: random weights)",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        metavar="PATH",
        help="trained WavLM of the large type: transformers' folder (default: random weights)",
    )
    parser.add_argument(
        "--layers", type=int, metavar="N", help="layers of the decoder (default: as many as now)"
    )
    parser.add_argument(
        "--deepen",
        choices=get_args(Deepening),
        default=Around.deepen,
        help="how more layers come to be: silent copies that keep the function exactly, or two "
        "copies of the stack without what they would repeat (SOLAR) (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=Around.seed,
        metavar="N",
        help="of random weights (default: %(default)s)",
    )
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="also start from what a FLARE cannot be exactly: a Llama, a Qwen2, scaled rotary "
        "embedding, sliding windows",
    )


def _add(kinds: Kinds, name: str, what: str) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=what, description=f"From {what}.", allow_abbrev=False)
    parser.add_argument("path", type=Path, help=what.split(", to ", maxsplit=1)[0])
    parser.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="new folder for the result"
    )
    return parser


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    for name, what in (("--end-of-chunk-id", "<|endofchunk|>"), ("--image-id", "<image>")):
        parser.add_argument(
            name,
            type=int,
            metavar="ID",
            help=f"OpenFlamingo's id of {what} (default: as its factory numbers new tokens)",
        )


if __name__ == "__main__":
    sys.exit(main())
