"""Trains FLARE: `python scripts/train_flare.py RECIPE [options]`."""

import sys

from common.training.command_line import main
from flare.recipes import RECIPES, make_task

DESCRIPTION = """Pre-trains FLARE. Running the same command again continues exactly.

    python scripts/train_flare.py flare_tiny
    python scripts/train_flare.py flare_tiny --task.weighting famo --run-folder runs/famo
    accelerate launch scripts/train_flare.py flare_1b --task.tokenizer FOLDER ..."""

if __name__ == "__main__":
    sys.exit(main(RECIPES, make_task, description=DESCRIPTION))
