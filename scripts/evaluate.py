r"""Evaluates a model on a benchmark's official files and writes a report.

    python scripts/prepare_data.py benchmarks data/benchmarks      # small ones, to try it

VQAv2 (OK-VQA: --dataset ok-vqa and its files), with 0 to 32 demonstrations:

    python scripts/evaluate.py vqa --model FOLDER --out runs/evaluation/vqa \
        --dataset vqav2 --images coco/val2014 --train-images coco/train2014 \
        --questions v2_OpenEnded_mscoco_val2014_questions.json \
        --annotations v2_mscoco_val2014_annotations.json \
        --train-questions v2_OpenEnded_mscoco_train2014_questions.json \
        --train-annotations v2_mscoco_train2014_annotations.json

Captions of COCO, and whether a caption finds its image:

    python scripts/evaluate.py captions --model FOLDER --out runs/evaluation/coco --shots 0 \
        --dataset coco-karpathy --captions dataset_coco.json --media coco \
        --train-captions dataset_coco.json --train-media coco
    python scripts/evaluate.py retrieval --model FOLDER --out runs/evaluation/coco-retrieval \
        --dataset coco-karpathy --captions dataset_coco.json --media coco

FOLDER holds a Flamingo, a FLARE, or any vision-language model of transformers' with a template for
chats. The same command goes on where it was stopped, with any number of processes:

    accelerate launch --config_file scripts/accelerate/cpu_2.yaml scripts/evaluate.py vqa ...
"""

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import torch
import tyro
from transformers.utils import logging

import flamingo.evaluated
import flare.evaluated
from common.checkpoint.lost_rank import RUN_AGAIN, is_lost_rank
from common.checkpoint.pretrained import model_type
from common.errors import UserError
from common.evaluation import hub_model
from common.evaluation.models import (
    ImageEmbedder,
    Reader,
    SoundEmbedder,
    TextEmbedder,
    Writer,
)
from common.evaluation.scores import SuiteResult
from common.evaluation.suite_files import begin, is_finished, read_result, weights_digest
from common.evaluation.suite_report import write_suite_report
from common.evaluation.suites.captions import CaptionsConfig, run_captions
from common.evaluation.suites.classes import ClassesConfig, run_classes
from common.evaluation.suites.image_classes import ImageClassesConfig, run_image_classes
from common.evaluation.suites.perplexity import PerplexityConfig, run_perplexity
from common.evaluation.suites.retrieval import RetrievalConfig, run_retrieval
from common.evaluation.suites.sound_classes import SoundClassesConfig, run_sound_classes
from common.evaluation.suites.vqa import VqaConfig, run_vqa
from common.evaluation.work import Workplace
from common.training.config_json import Json, to_json
from common.training.options import parse_commands
from common.training.processes import (
    Processes,
    is_first_process,
    join_processes,
    leave_processes,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Processes wait for one another only where all have to be finished with their own examples.
LONGEST_WAIT = timedelta(days=7)
ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What evaluates a benchmark, and what it asks of a model."""

    config: type[Any]
    run: Callable[[Any, Any, Workplace], SuiteResult]
    needs: tuple[type, ...]


SUITES: Mapping[str, Suite] = {
    "vqa": Suite(config=VqaConfig, run=run_vqa, needs=(Writer,)),
    "captions": Suite(config=CaptionsConfig, run=run_captions, needs=(Writer,)),
    "classes": Suite(config=ClassesConfig, run=run_classes, needs=(Writer,)),
    "retrieval": Suite(config=RetrievalConfig, run=run_retrieval, needs=(TextEmbedder,)),
    "image-classes": Suite(
        config=ImageClassesConfig, run=run_image_classes, needs=(ImageEmbedder, TextEmbedder)
    ),
    "sound-classes": Suite(
        config=SoundClassesConfig, run=run_sound_classes, needs=(SoundEmbedder, TextEmbedder)
    ),
    "perplexity": Suite(config=PerplexityConfig, run=run_perplexity, needs=(Reader,)),
}


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A class that evaluates models, and how one is loaded."""

    evaluated: type
    load: Callable[..., Any]


MODELS: Mapping[str, ModelKind] = {
    "flamingo": ModelKind(
        evaluated=flamingo.evaluated.EvaluatedFlamingo, load=flamingo.evaluated.load
    ),
    "flare": ModelKind(evaluated=flare.evaluated.EvaluatedFlare, load=flare.evaluated.load),
}
HUB = ModelKind(evaluated=hub_model.HubModel, load=hub_model.load)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Generic[ConfigT]):
    """One evaluation of one model."""

    suite: Annotated[ConfigT, tyro.conf.arg(name="")]
    # Folder of the model.
    model: Path
    # Folder of the answers, figures and report; the same command again goes on in it.
    out: Path
    # cpu, cuda or cuda:1; not given: the accelerator of this process if there is one.
    device: str | None = None
    # Of weights and activations.
    dtype: Literal["fp32", "bf16"] = "fp32"
    # Examples that the model is given at once; no answer depends on it but by rounding.
    batch_size: int = 8
    # Evaluate only so many examples, the first ones or, of classes, some of each.
    limit: int | None = None

    def __post_init__(self) -> None:
        if min(self.batch_size, 1 if self.limit is None else self.limit) < 1:
            raise UserError(f"--batch-size {self.batch_size} --limit {self.limit}: at least 1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates; exit status 2 for a user's mistake, 75 when another process has died."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parsed(words)
        if command is not None:
            logging.disable_progress_bar()
            _evaluate(command, name=words[0], typed=shlex.join(["scripts/evaluate.py", *words]))
    except UserError as error:
        return _fail(str(error), status=2)
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        return _fail("another process has died; run the same command again", status=RUN_AGAIN)
    finally:
        leave_processes()
    return 0


def _parsed(words: Sequence[str]) -> Evaluation[Any] | None:
    """The command, or None when help was printed."""
    _check_name(words)
    kinds = tuple(
        Annotated[
            Evaluation[suite.config],  # type: ignore[name-defined]  # known at run time
            tyro.conf.subcommand(name, description=inspect.getdoc(suite.config)),
        ]
        for name, suite in SUITES.items()
    )
    kind: Any = Union[kinds]  # noqa: UP007 -- of a tuple
    try:
        command: Evaluation[Any] | None = parse_commands(
            kind,
            list(words) or ["--help"],
            description=__doc__,
            program=Path(__file__).name,
            markers=(tyro.conf.OmitSubcommandPrefixes,),
        )
    except UserError as error:
        raise UserError(_told(str(error))) from None
    return command


def _check_name(words: Sequence[str]) -> None:
    """Before tyro looks at the words.

    Raises:
        UserError: the first one is no suite.
    """
    if words and not words[0].startswith("-") and words[0] not in SUITES:
        near = get_close_matches(words[0], SUITES, n=1)
        advice = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(SUITES)}"
        raise UserError(f"unknown suite {words[0]}; {advice}")


def _told(sentence: str) -> str:
    """tyro's sentence, without the help of every option that is missing."""
    if sentence.startswith("Missing from"):
        options = re.findall(r"(--[\w-]+) (?=[A-Z{\[])", sentence)  # before what they take
        return f"give {', '.join(options)} too; --help explains them"
    return re.sub(r"^Error parsing [\w\[\].]+: ", "", sentence)


def _evaluate(command: Evaluation[Any], *, name: str, typed: str) -> None:
    suite = SUITES[name]
    kind = MODELS.get(model_type(command.model), HUB)
    _check_can(kind, name)
    processes = join_processes(timeout=LONGEST_WAIT)
    settings = processes.ranks.on_main(lambda: _settings(command, name))
    processes.ranks.on_main(lambda: begin(command.out, settings))
    render = partial(write_suite_report, command.out, command=f"python {typed}", settings=settings)
    if not processes.ranks.on_main(lambda: is_finished(command.out)):
        model = kind.load(
            command.model, device=_device(command, processes), dtype=DTYPES[command.dtype]
        )
        work = Workplace(
            folder=command.out,
            batch_size=command.batch_size,
            processes=processes,
            limit=command.limit,
        )
        result = _with_limit(suite.run(command.suite, model, work), command.limit)
        processes.ranks.on_main(lambda: render(result))
    else:
        processes.ranks.on_main(lambda: render(read_result(command.out)))
    if processes.is_main:
        print(f"report: {command.out / 'report.md'}")


def _check_can(kind: ModelKind, name: str) -> None:
    """Before a large model is read.

    Raises:
        UserError: it cannot do what the suite asks for; says which suites it can run.
    """
    able = [own for own in SUITES if _lacks(kind, own) is None]
    if (lacking := _lacks(kind, name)) is not None:
        raise UserError(
            f"{name} needs a {lacking}, which {kind.evaluated.__name__} is not; "
            f"it can run {', '.join(able)}"
        )


def _lacks(kind: ModelKind, name: str) -> str | None:
    needs = SUITES[name].needs
    return next((need.__name__ for need in needs if not issubclass(kind.evaluated, need)), None)


def _settings(command: Evaluation[Any], name: str) -> dict[str, Json]:
    """All that an answer depends on; not the device and the number of processes."""
    return {
        "suite": name,
        "settings": to_json(command.suite),
        "model": str(command.model),
        "weights": weights_digest(command.model),
        "dtype": command.dtype,
        "batch_size": command.batch_size,
        "limit": command.limit,
    }


def _device(command: Evaluation[Any], processes: Processes) -> torch.device:
    if command.device is None:
        return processes.device
    try:
        return torch.empty(0, device=command.device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {command.device} is not there ({reason}); use cpu") from error


def _with_limit(result: SuiteResult, limit: int | None) -> SuiteResult:
    if limit is None:
        return result
    note = f"Not the whole benchmark: {limit} examples were evaluated (--limit)."
    return replace(result, notes=(note, *result.notes))


def _fail(message: str, *, status: int) -> int:
    if is_first_process():
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
