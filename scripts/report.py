r"""Writes the technical report of runs, evaluations and alignments.

    python scripts/report.py --run runs/quickstart --evaluation runs/quickstart runs/evaluation/vqa
    python scripts/report.py --run runs/quickstart-flare --alignment runs/instruct \
        --recipe flare_13b --out runs/report

`report.html` is one file with all pictures in it, `report.md` the same with `pictures/`, and
`report.json` lists every figure with its file and key. A figure without a file is shown as not
measured. Exit status 2 for a mistake.
"""

import inspect
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import flamingo.model
import flare.model
from common.checkpoint.model_card import write_model_card
from common.errors import UserError
from common.evaluation.technical_report.inputs import (
    Inputs,
    Run,
    find_alignments,
    find_evaluations,
    find_models,
    find_runs,
    models_of,
)
from common.evaluation.technical_report.sources import Source
from common.evaluation.technical_report.writing import verify, write_technical_report
from common.training.options import parse_options

ABOUT = {
    "flamingo": inspect.cleandoc(flamingo.model.__doc__ or ""),
    "flare": inspect.cleandoc(flare.model.__doc__ or ""),
}
LIMITS = {
    "flamingo": (
        "Flamingo: a text token looks at one image, the last before it; what lies in earlier ones "
        "reaches it only through the text between.",
        "Flamingo: every image is reduced to a fixed number of latents, whatever it shows; small "
        "writing and many small objects are lost first.",
        "Flamingo: the language model is frozen, so its errors and biases stay as they were.",
        "Flamingo: images are scaled and cropped to one square size.",
    ),
    "flare": (
        "FLARE: every image and recording becomes a fixed number of soft tokens, whatever it "
        "holds.",
        "FLARE: its audio encoder is one for speech; frequencies above those of speech never reach "
        "it.",
        "FLARE: images are scaled and cropped to one square size, recordings cut to a longest "
        "duration.",
        "FLARE: masked prediction is trained on a share of the documents; it is not how it writes.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the report is about, and where it is written."""

    # Folders of runs, or of several runs each.
    run: tuple[Path, ...] = ()
    # Folders that evaluate.py or a quickstart has finished.
    evaluation: tuple[Path, ...] = ()
    # Folders that instruct.py has finished.
    alignment: tuple[Path, ...] = ()
    # Folders of models beside those that the runs have written.
    model: tuple[Path, ...] = ()
    # Recipes to be planned by plan.py, each with its options ("flare_13b --gpus 128"); nothing of
    # them is run.
    recipe: tuple[str, ...] = ()
    # Folder of the report.
    out: Path = Path("runs/report")
    # Power of a device in watts where no data sheet is at hand, as of a CPU.
    power_w: float | None = None
    # Write the models' cards (README.md beside the weights) anew, with the evaluations' figures.
    cards: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report and reads each of its figures again."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parse_options(Options, words or ["--help"], description=__doc__)
        if options is not None:
            if options.power_w is not None and not 0 < options.power_w < math.inf:
                raise UserError(f"--power-w {options.power_w} is no power; give watts above 0")
            command = shlex.join(["python", "scripts/report.py", *words])
            page = write_technical_report(options.out, _inputs(options), command=command)
            print(f"report: {page}  ({verify(options.out)} figures, each read again)")
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _inputs(options: Options) -> Inputs:
    runs = find_runs(options.run)
    evaluations = find_evaluations(options.evaluation)
    models = find_models([*dict.fromkeys([*models_of(runs), *options.model])])
    inputs = Inputs(
        runs=runs,
        evaluations=evaluations,
        alignments=find_alignments(options.alignment),
        models=models,
        plans=tuple(_planned(recipe, options.out) for recipe in options.recipe),
        about=ABOUT,
        limits=LIMITS,
        power_w=options.power_w,
    )
    if not (runs or evaluations or inputs.alignments or models or inputs.plans):
        raise UserError("nothing to report; name a --run, --evaluation, --alignment or --recipe")
    if options.cards:
        _write_cards(inputs)
    return inputs


def _planned(recipe: str, out: Path) -> Source:
    """What `plan.py` says of a recipe, kept beside the report as the origin of its figures."""
    name = "_".join(re.findall(r"\w+", recipe))
    file = out / "plans" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("plan.py")
    words = [sys.executable, str(script), *shlex.split(recipe), "--json", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: it does not fit, which the plan tells
        lines = done.stderr.strip().splitlines() or ["plan.py failed"]
        raise UserError(f"--recipe {recipe}: {lines[-1].removeprefix('error: ')}")
    return Source(file)


def _write_cards(inputs: Inputs) -> None:
    """The same files once more, in the form of the Hub."""
    for model in inputs.models:
        run: Run | None = next((r for r in inputs.runs if r.folder == model.folder.parent), None)
        results = [
            evaluation.results.file
            for evaluation in inputs.evaluations
            if evaluation.is_suite
            and evaluation.model is not None
            and evaluation.model.resolve() == model.folder.resolve()
        ]
        write_model_card(model.folder, run=None if run is None else run.folder, results=results)


if __name__ == "__main__":
    sys.exit(main())
