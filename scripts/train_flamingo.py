"""Trains a stage of Flamingo: `python scripts/train_flamingo.py RECIPE [options]`."""

import sys

from common.training.command_line import main
from flamingo.recipes import RECIPES, make_task

DESCRIPTION = """Trains Flamingo, stage by stage. Running the same command again continues exactly.

    python scripts/train_flamingo.py flamingo_tiny_vision
    python scripts/train_flamingo.py flamingo_tiny_language
    python scripts/train_flamingo.py flamingo_tiny
    accelerate launch scripts/train_flamingo.py flamingo_9b --task.language-model FOLDER ..."""

if __name__ == "__main__":
    sys.exit(main(RECIPES, make_task, description=DESCRIPTION))
