"""Both tiny models trained under random faults for a long time, beside runs that nobody disturbs:

    python -m tests.reliability.soak --minutes 20 --out runs/soak

Every model is trained with three seeds undisturbed, and with the same seeds, one after another, in
one process that meets signals, a disk that refuses every write for a while, damaged samples and
gradients that are not finite, and that starts a run again whenever it has ended. The losses must
end where those of the undisturbed runs end; memory, open files and logs must not grow. Writes
`soak.md` and pictures; exit status 1 when a limit is broken. POSIX only: the disk refuses by the
process's own limit of the size of files (`RLIMIT_FSIZE`), which is the kernel's doing and needs no
rights.
"""

import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import tyro

from common.data.embedded.shards import write_documents
from common.data.shards.build import build_indices
from common.data.shards.files import FINGERPRINTED_BYTES
from common.training.metrics import read_lines
from flamingo.task import FlamingoTask
from flamingo.task_config import SourceConfig as FlamingoSource
from flare.corpora import SourceConfig as FlareSource
from flare.corpora import draw_of, embedded_tokenizer
from flare.task import FlareTask
from tests.distributed.launch import preloaded
from tests.reliability.disturbed import train_disturbed, train_undisturbed
from tests.reliability.small_runs import small_flamingo, small_flare, wait_for
from tests.reliability.soak_report import Judged, judge, write_report

SEEDS = (0, 1, 2)
NUM_DOCUMENTS, SAMPLES_PER_SHARD = 600, 100
DAMAGED = 0.03  # of the samples
SHARE_OF_TIME = 0.85  # the rest is for starting and drawing
CALIBRATION_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Model:
    """How one of the two is trained here."""

    name: str
    config: Callable[[Path, int], Any]  # shards, seed -> run
    task: Callable[[Any, int], Any]  # task config, steps -> task
    tokenizer: Callable[[], Any]


def flamingo_run(shards: Path, seed: int) -> Any:
    source = FlamingoSource(name="pages", kind="interleaved", path=shards, batch_size=3, weight=1.0)
    run = small_flamingo()
    task = replace(run.task, sources=(source,), data_seed=seed)
    return replace(run, task=task, seed=seed)


def flare_run(shards: Path, seed: int) -> Any:
    run = small_flare()
    task = replace(run.task, sources=(FlareSource(kind="interleaved", path=shards, weight=1.0),))
    return replace(run, task=replace(task, data_seed=seed), seed=seed)


MODELS = (
    Model(
        name="flamingo",
        config=flamingo_run,
        task=lambda config, steps: FlamingoTask(config),
        tokenizer=lambda: FlamingoTask(small_flamingo().task).processor.tokenizer,
    ),
    Model(
        name="flare",
        config=flare_run,
        task=lambda config, steps: FlareTask(config, steps=steps),
        tokenizer=embedded_tokenizer,
    ),
)


def main(out: Path, minutes: float = 20.0, disturbed: int = len(SEEDS)) -> int:
    """Train, judge and report; so many of the seeds are trained under faults, too."""
    if out.exists() and any(out.iterdir()):
        sys.stderr.write(f"error: {out} is not empty; choose another folder\n")
        return 2
    begin = time.monotonic()
    budget_s = minutes * 60 * SHARE_OF_TIME / len(MODELS)
    seeds = SEEDS[:disturbed]
    judged = [soak(model, out / model.name, seeds, budget_s=budget_s) for model in MODELS]
    report = write_report(judged, out, minutes=(time.monotonic() - begin) / 60)
    sys.stdout.write(f"{report}\n")
    return 0 if all(item.holds for item in judged) else 1


def soak(model: Model, folder: Path, disturbed: Sequence[int], *, budget_s: float) -> Judged:
    """All runs of one model, one after another; the disturbed ones share a process."""
    whole, damaged = make_shards(model, folder)
    calibration = folder / "calibration"
    run_process(Job(model.name, whole, {0: calibration}, CALIBRATION_STEPS))
    records = read_lines(calibration / "metrics.jsonl")
    per_step_s = median(record["speed/seconds_per_update"] for record in records)
    # Starts and stops make a disturbed run about half as long again.
    steps = max(int(budget_s / per_step_s / (len(SEEDS) + 1.5 * len(disturbed))), 30)
    for seed in SEEDS:
        run_process(Job(model.name, whole, {seed: folder / f"clean_{seed}"}, steps))
    faulty = {seed: folder / f"faulty_{seed}" for seed in disturbed}
    run_process(Job(model.name, damaged, faulty, steps, faults=True))
    return judge(model.name, folder)


@dataclass(frozen=True)
class Job:
    """The runs of one process, one after another."""

    model: str
    shards: Path
    folders: Mapping[int, Path]  # by their seeds
    steps: int
    faults: bool = False


def run_process(job: Job) -> None:
    """To the end, in a forked process.

    Raises:
        RuntimeError: the process has failed.
    """
    process = preloaded().Process(target=_train, args=(job,))
    process.start()
    (status,) = wait_for([process], timeout_s=3600)
    if status:
        names = ", ".join(map(str, job.folders.values()))
        raise RuntimeError(f"{names} ended with exit status {status}; see .output beside it")


def make_shards(model: Model, folder: Path) -> tuple[Path, Path]:
    """Generated documents as real shards, and a copy with some samples damaged on the disk."""
    whole, damaged = folder / "shards", folder / "damaged_shards"
    draw = draw_of("scenes", split="train", seed=0, family_size=4)
    documents = (draw(index) for index in range(NUM_DOCUMENTS))
    write_documents(whole, documents, samples_per_shard=SAMPLES_PER_SHARD)
    build_indices(whole, tokenizer=model.tokenizer())
    shutil.copytree(whole, damaged)
    dice = random.Random(0)
    for shard in sorted(damaged.glob("*.tar")):
        content = bytearray(shard.read_bytes())
        for _ in range(int(DAMAGED * SAMPLES_PER_SHARD)):
            # Tens of bytes inside some member. Both ends of a shard are compared when it is opened.
            place = dice.randrange(FINGERPRINTED_BYTES, len(content) - FINGERPRINTED_BYTES - 64)
            content[place : place + 64] = dice.randbytes(64)
        shard.write_bytes(content)
    return whole, damaged


def _train(job: Job) -> None:
    model = next(model for model in MODELS if model.name == job.model)
    steps = job.steps
    for seed, folder in job.folders.items():
        run = model.config(job.shards, seed)
        run = replace(
            run,
            steps=steps,
            schedule=replace(run.schedule, warmup_steps=max(steps // 10, 1)),
            checkpoint=replace(run.checkpoint, every_steps=max(steps // 12, 3)),
            max_fault_share=0.5,
            log_every=2,
        )
        task = model.task(run.task, steps)
        if job.faults:
            met = train_disturbed(run, task, folder, seed=seed)
            Path(f"{folder}.met.json").write_text(json.dumps(met.to_json()))
        else:
            train_undisturbed(run, task, folder)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
