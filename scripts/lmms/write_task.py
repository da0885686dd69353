"""Writes tasks for lmms-eval that need no hub: generated scenes, questions with ten answers
each, and the descriptions of the tasks with the paths filled in.

    python scripts/lmms/write_task.py runs/lmms/scenes
    python -m lmms_eval --model flamingo --model_args pretrained=runs/quickstart/flamingo/model \\
        --include_path runs/lmms/scenes --tasks scenes_vqa

`scenes_vqa` is answered in words; `scenes_choice` weighs likelihoods and needs --force_simple.
"""

import argparse
import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

from common.data.embedded.benchmarks import write_benchmarks
from common.errors import UserError
from common.evaluation.benchmarks.items import Question
from common.evaluation.benchmarks.vqa import read_vqa

HERE = Path(__file__).parent
TASKS = ("scenes_vqa.yaml", "scenes_choice.yaml")
SEED = 0


def main() -> int:
    """Exit status 2 for a mistake."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("folder", type=Path, help="new folder for the tasks and their data")
    parser.add_argument("--num", type=int, default=40, help="images (default: %(default)s)")
    chosen = parser.parse_args()
    try:
        write_tasks(chosen.folder.resolve(), num=chosen.num)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"tasks {', '.join(Path(name).stem for name in TASKS)} in {chosen.folder}")
    return 0


def write_tasks(folder: Path, *, num: int) -> None:
    """Both tasks over the questions of the generated VQAv2.

    Raises:
        UserError: the folder holds anything else.
    """
    data = folder / "benchmarks"
    write_benchmarks(data, num=num, seed=SEED)
    questions = read_vqa(
        data / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        data / "vqav2/v2_mscoco_val2014_annotations.json",
        images=data / "coco/val2014",
    )
    rows = folder / "questions.jsonl"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(questions)), encoding="utf-8")
    shutil.copy(HERE / "scenes_task.py", folder)
    for name in TASKS:
        task = (HERE / name).read_text(encoding="utf-8")
        (folder / name).write_text(task.replace("QUESTIONS", str(rows)), encoding="utf-8")


def _rows(questions: tuple[Question, ...]) -> list[dict[str, object]]:
    choices: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        choices[question.question_type].update(question.answers)
    return [
        {
            "image": str(question.image),
            "question": question.text,
            "answers": question.answers,
            "choices": sorted(choices[question.question_type]),
        }
        for question in questions
    ]


if __name__ == "__main__":
    sys.exit(main())
