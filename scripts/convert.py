"""Turns a Flamingo of the field into a folder of ours, or one of ours into theirs.

    python scripts/convert.py open_flamingo checkpoint.pt --to models/of-9b \\
        --language-model models/mpt-7b --vision-weights ViT-L-14.safetensors
    python scripts/convert.py idefics models/idefics-9b --to models/ours-9b
    python scripts/convert.py flamingo models/of-9b --to exported    # writes checkpoint.pt

Prints what became of every key; one that is missing, unknown or of another shape is an error that
names it. Nothing is downloaded. docs/conversion.md says what is covered. Exit status 2 for a
mistake.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from transformers.utils import logging

from common.errors import UserError
from flamingo.config import FlamingoVisionConfig
from flamingo.conversion.clip import clip_vision_config
from flamingo.conversion.open_flamingo_keys import NewTokens
from flamingo.convert import Report, export_open_flamingo, import_idefics, import_open_flamingo


def main() -> int:
    """Prints a table of keys; one line and exit status 2 for a user's mistake."""
    options = _parser().parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        _print(CONVERSIONS[options.source](options))
    except UserError as error:
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


def _export_open_flamingo(options: argparse.Namespace) -> Report:
    return export_open_flamingo(options.path, options.to, tokens=_tokens(options))


CONVERSIONS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "open_flamingo": _import_open_flamingo,
    "idefics": lambda options: import_idefics(options.path, options.to),
    "flamingo": _export_open_flamingo,
}


def _tokens(options: argparse.Namespace) -> NewTokens | None:
    ids = (options.end_of_chunk_id, options.image_id)
    if ids == (None, None):
        return None
    if None in ids:
        raise UserError("give both --end-of-chunk-id and --image-id, or neither")
    return NewTokens(end_of_chunk=ids[0], image=ids[1])


def _print(report: Report) -> None:
    width = max(len(theirs) for theirs, _, _ in report.lines)
    for theirs, how, ours in sorted(report.lines):
        print(f"{theirs:<{width}}  {how:<14}  {ours}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"{len(report.lines)} entries")


class _Parser(argparse.ArgumentParser):
    """One line on standard error and exit status 2."""

    def error(self, message: str) -> None:  # type: ignore[override]  # it does not return either
        """Without the usage, which --help shows."""
        self.exit(2, f"error: {message}; --help shows all options\n")


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(description=__doc__, formatter_class=form, allow_abbrev=False)
    kinds = parser.add_subparsers(dest="source", required=True, metavar="FROM")
    theirs = _add(kinds, "open_flamingo", "a checkpoint of mlfoundations/open_flamingo")
    theirs.add_argument(
        "--language-model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the language model it was trained around, with its tokenizer",
    )
    theirs.add_argument(
        "--vision",
        default="vit_large_patch14_clip_quickgelu_224",
        metavar="NAME",
        help="timm's name of its CLIP tower (default: %(default)s, OpenAI's ViT-L/14)",
    )
    theirs.add_argument(
        "--image-size",
        type=int,
        default=FlamingoVisionConfig.image_size,
        metavar="PIXELS",
        help="height and width of its pictures (default: %(default)s)",
    )
    theirs.add_argument(
        "--vision-weights",
        type=Path,
        metavar="FILE",
        help="open_clip's weights of the tower; needed unless the checkpoint holds them",
    )
    theirs.add_argument(
        "--normed-tokens",
        action="store_true",
        help="trained with open_clip 2.23 or later, whose tokens pass the tower's last norm; "
        "those of the released checkpoints, which are older, do not",
    )
    _add_tokens(theirs)
    _add(kinds, "idefics", "a folder of transformers' Idefics v1")
    ours = _add(kinds, "flamingo", "a folder of ours, written as OpenFlamingo's checkpoint.pt")
    _add_tokens(ours)
    return parser


def _add(
    kinds: "argparse._SubParsersAction[_Parser]", name: str, what: str
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=what, description=f"From {what}.", allow_abbrev=False)
    parser.add_argument("path", type=Path, help=what)
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
