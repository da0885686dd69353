"""Asks a trained Flamingo about your own pictures, or a trained FLARE about pictures and sounds.

    python scripts/generate.py --image cat.png --question "What colour is shown?"
    python scripts/generate.py --image photo.png                       # a caption
    python scripts/generate.py --shot a.png red --shot b.png blue --image c.png
    python scripts/generate.py --model runs/quickstart-flare/flare/model --audio bell.wav

Without a question the picture or sound is captioned; with shots (a picture and its answer each) the
model answers in their manner.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

import flamingo.generation  # makes Flamingo known to the Auto classes
import flare.generation  # and FLARE
from common.checkpoint.pretrained import read_config, read_model, read_processor
from common.data.audio import read_audio
from common.data.document import Image, Recording
from common.data.images import read_image
from common.data.prompts import OUTPUT_PROMPT, completed, question_prompt
from common.errors import UserError
from common.training.options import OneLineParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line of text; exit status 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    logging.disable_progress_bar()
    try:
        print(_answer(options))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _answer(options: argparse.Namespace) -> str:
    if not options.image and not options.audio:
        raise UserError("nothing to speak about; give --image FILE or --audio FILE")
    if not (options.model / "config.json").is_file():
        raise UserError(
            f"no model in {options.model}; run `make quickstart` first or give --model FOLDER"
        )
    document: list[str | Image | Recording] = []
    for file, answer in options.shot:
        document += [read_image(Path(file)), completed(OUTPUT_PROMPT, answer)]
    document += [read_image(file) for file in options.image]
    document += [read_audio(file) for file in options.audio]
    document.append(question_prompt(options.question) if options.question else OUTPUT_PROMPT)
    torch.manual_seed(options.seed)
    config = read_config(options.model)
    model = read_model(AutoModelForImageTextToText, options.model, config=config)
    processor = read_processor(AutoProcessor, options.model)
    if options.audio and "audio" not in model.input_modalities:
        raise UserError(f"the model in {options.model} hears nothing; leave out --audio")
    room = flare.generation if "audio" in model.input_modalities else flamingo.generation
    texts: list[str] = room.complete(
        model.eval(),
        processor,
        [document],
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        temperature=options.temperature,
    )
    return texts[0]


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").split("\n", maxsplit=1)
    parser = OneLineParser(description=description[0], epilog=description[1])
    for name, what in (("--image", "picture"), ("--audio", "sound")):
        parser.add_argument(
            name,
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help=f"a {what} to speak about; may be given several times",
        )
    parser.add_argument("--question", help="a question about them; without one they are captioned")
    parser.add_argument(
        "--shot",
        nargs=2,
        action="append",
        default=[],
        metavar=("IMAGE", "ANSWER"),
        help="an example to follow; may be given several times",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/quickstart/flamingo/model"),
        help="folder of a trained model (default: %(default)s)",
    )
    parser.add_argument("--max-new-tokens", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--num-beams", type=int, default=1, help="beam search (default: greedy)")
    parser.add_argument("--temperature", type=float, help="sample at this temperature")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling")
    return parser


if __name__ == "__main__":
    sys.exit(main())
