"""Writes the weights of a checkpoint, of however many ranks, as plain safetensors files.

    python scripts/export_checkpoint.py runs/flare_13b/checkpoints/step_00000500 weights

In one process and the memory of one file; trained weights only, the frozen part is the user's own.
The finished model of a run lies in its folder `model` already. Exit status 2 for a mistake.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from common.checkpoint.export import export_safetensors
from common.checkpoint.model_card import write_model_card
from common.errors import UserError
from common.training.options import OneLineParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the files that were written."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of one checkpoint")
    parser.add_argument("out", type=Path, help="new folder for the files")
    parser.add_argument("--max-file-gb", type=float, default=5.0, help="largest file (default: 5)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.max_file_gb <= 0:
            raise UserError(f"--max-file-gb must be positive, not {chosen.max_file_gb:g}")
        largest = round(chosen.max_file_gb * 1e9)
        for file in export_safetensors(chosen.checkpoint, chosen.out, max_shard_bytes=largest):
            sys.stdout.write(f"{file}\n")
        run = chosen.checkpoint.resolve().parents[1]
        write_model_card(chosen.out, run=run if (run / "config.json").exists() else None)
    except UserError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
