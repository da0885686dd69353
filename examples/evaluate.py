"""Asks a Flamingo the questions of a VQAv2 file pair; the files hold generated scenes here."""

from pathlib import Path

import torch
import tyro
from stand_ins import EXAMPLES, model_folder

from common.data.embedded.benchmarks import write_benchmarks
from common.evaluation.shots.protocol import ShotsConfig
from common.evaluation.suites.vqa import VqaConfig, run_vqa
from common.evaluation.work import Workplace
from flamingo.evaluated import load


def main(model: Path | None = None, num: int = 20) -> None:
    """Print a line for each setting; `scripts/evaluate.py vqa` writes a report of the same."""
    files = EXAMPLES / f"benchmarks-{num}"
    write_benchmarks(files, num=num, seed=0)
    config = VqaConfig(
        dataset="vqav2",
        questions=files / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        annotations=files / "vqav2/v2_mscoco_val2014_annotations.json",
        images=files / "coco/val2014",
        train_questions=files / "vqav2/v2_OpenEnded_mscoco_train2014_questions.json",
        train_annotations=files / "vqav2/v2_mscoco_train2014_annotations.json",
        train_images=files / "coco/train2014",
        shots=ShotsConfig(shots=(0, 4), seeds=(0,)),
    )
    flamingo = load(model or model_folder(), device="cpu", dtype=torch.float32)
    work = Workplace(folder=EXAMPLES / f"vqa-{num}", batch_size=16)
    for score in run_vqa(config, flamingo, work).scores:
        if not score.part:
            seen = "without images" if score.blind else "with images"
            print(f"{score.shots} shots {seen}: {score.metric} {score.value:.1f}")


if __name__ == "__main__":
    tyro.cli(main)
