"""Asks a trained Flamingo about your own pictures.

    python scripts/generate.py --model runs/quickstart/flamingo/model --image cat.png \\
        --question "What colour is shown?"
    python scripts/generate.py --image photo.png                       # a caption
    python scripts/generate.py --shot a.png red --shot b.png blue --image c.png

Without a question the picture is captioned; with shots (a picture and its answer each) the model
answers in their manner.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

import flamingo  # noqa: F401 - makes Flamingo known to the Auto classes
from common.data.images import read_image
from common.data.prompts import OUTPUT_PROMPT, completed, question_prompt
from common.errors import UserError
from flamingo.generation import complete
from flamingo.processing import Part


def main() -> int:
    """Prints one line of text; exit status 2 for a user's mistake."""
    options = _parser().parse_args()
    logging.disable_progress_bar()
    try:
        print(_answer(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _answer(options: argparse.Namespace) -> str:
    if not (options.model / "config.json").is_file():
        raise UserError(
            f"no model in {options.model}; run `make quickstart` first or give --model FOLDER"
        )
    document: list[Part] = []
    for file, answer in options.shot:
        document += [read_image(Path(file)), completed(OUTPUT_PROMPT, answer)]
    prompt = question_prompt(options.question) if options.question else OUTPUT_PROMPT
    document += [read_image(options.image), prompt]
    torch.manual_seed(options.seed)
    model = AutoModelForImageTextToText.from_pretrained(options.model, local_files_only=True)
    processor = AutoProcessor.from_pretrained(options.model, local_files_only=True)
    return complete(
        model.eval(),
        processor,
        [document],
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        temperature=options.temperature,
    )[0]


class _Parser(argparse.ArgumentParser):
    """One line on standard error and exit status 2."""

    def error(self, message: str) -> None:  # type: ignore[override]  # it does not return either
        """Without the usage, which --help shows."""
        self.exit(2, f"error: {message}; --help shows all options\n")


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").split("\n", maxsplit=1)
    parser = _Parser(
        description=description[0],
        epilog=description[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--image", type=Path, required=True, help="the picture to speak about")
    parser.add_argument("--question", help="a question about it; without one it is captioned")
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
