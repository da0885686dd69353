"""Writes the README.md of a model's folder, with the figures of evaluations, ready for the Hub.

    python scripts/model_card.py runs/quickstart/flamingo/model --run runs/quickstart/flamingo \\
        --results runs/evaluation/vqa/results.json runs/evaluation/coco/results.json
    hf upload NAME/MODEL runs/quickstart/flamingo/model

Training and conversion write one without figures by themselves. Exit status 2 for a mistake.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import flamingo  # noqa: F401 -- makes its configurations known
import flare  # noqa: F401 -- as above
from common.checkpoint.model_card import write_model_card
from common.errors import UserError
from common.training.options import OneLineParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the path of the card."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a model")
    parser.add_argument("--run", type=Path, help="folder of the training run to tell of")
    parser.add_argument(
        "--results", type=Path, nargs="*", default=[], help="results.json files of evaluations"
    )
    chosen = parser.parse_args(arguments)
    try:
        print(write_model_card(chosen.folder, run=chosen.run, results=chosen.results))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
