"""The command line of training scripts: pick a recipe, override any field, get help that teaches.

    python scripts/train_flamingo.py RECIPE [--optimizer.peak-learning-rate 1e-4] [--dry-run]

A recipe is a function without arguments that returns a `RunConfig`; its docstring is its claim
(hardware, tokens, whether it was run) and its help. The user's mistakes give one line on standard
error and exit status 2, never a traceback.
"""

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import torch
import tyro

from common.checkpoint.lost_rank import lost_ranks_told
from common.data.packing import PackState
from common.errors import UserError
from common.training.config_json import flatten, to_json
from common.training.display import configure_logging
from common.training.loader import rows_of
from common.training.optimizer import check_groups
from common.training.outcome import EXIT_STATUSES, exit_status_of
from common.training.processes import is_first_process, leave_processes
from common.training.run import RunConfig
from common.training.schedule import learning_rate_factor
from common.training.task import Task
from common.training.trainer import Trainer

RunT = TypeVar("RunT")
# A recipe configures whatever task it likes, so the types of task config and batch stay open.
Recipe = Callable[[], RunConfig[Any]]
MakeTask = Callable[[RunConfig[Any]], Task[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Invocation(Generic[RunT]):
    """What stands on the command line behind the recipe's name."""

    run: Annotated[RunT, tyro.conf.arg(name="")]
    # Folder of the run; the same command again continues the run in it.
    run_folder: Path
    # Show parameters, tokens per update and learning rates, then exit; trains nothing.
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False


def main(
    recipes: Mapping[str, Recipe],
    make_task: MakeTask,
    *,
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a training script; returns its exit status: `sys.exit(main(...))`.

    `make_task` turns the resolved configuration into the task. `arguments` are the program's own
    when not given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help"):
            sys.stdout.write(_overview(recipes, description))
            return 0
        name, config = _pick(recipes, words[0])
        invocation = _parse(name, config, words[1:], recipe=recipes[name])
        if invocation is None:  # Only help was asked for.
            return 0
        configure_logging(is_main=is_first_process())
        task = make_task(invocation.run)
        if invocation.dry_run:
            sys.stdout.write(describe_run(invocation.run, task))
            return 0
        with lost_ranks_told("training did not start"):
            return Trainer(invocation.run, task, invocation.run_folder).train().exit_status
    except UserError as error:
        # The terminal's output may be a file on the disk that is full.
        with contextlib.suppress(OSError):
            if is_first_process():
                sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return exit_status_of(error)
    finally:
        leave_processes()


def _overview(recipes: Mapping[str, Recipe], description: str) -> str:
    program = Path(sys.argv[0]).name
    lines = [f"usage: {program} RECIPE [options]", "", description, "", "recipes:"]
    for name, recipe in recipes.items():
        text = inspect.getdoc(recipe) or "(not described)"
        lines += ["", f"  {name}", *(f"      {line}".rstrip() for line in text.splitlines())]
    lines += ["", f"All options of a recipe: {program} RECIPE --help", "", EXIT_STATUSES]
    return "\n".join(lines)


def _pick(recipes: Mapping[str, Recipe], name: str) -> tuple[str, RunConfig[Any]]:
    if name in recipes:
        return name, recipes[name]()
    near = get_close_matches(name, recipes, n=1)
    advice = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(recipes)}"
    raise UserError(f"unknown recipe {name}; {advice}")


def _parse(
    name: str, config: RunConfig[Any], words: list[str], *, recipe: Recipe
) -> Invocation[RunConfig[Any]] | None:
    """The invocation, or None when help was printed."""
    # The task's own class makes its fields known to the parser.
    kind: Any = Invocation[RunConfig[type(config.task)]]  # type: ignore[misc]  # known at run time
    default = Invocation(run=config, run_folder=Path("runs") / name)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            invocation, unknown = tyro.cli(
                kind,
                default=default,
                args=words,
                prog=f"{Path(sys.argv[0]).name} {name}",
                description=inspect.getdoc(recipe),
                return_unknown_args=True,
            )
    except SystemExit as ended:
        if ended.code in (0, None):
            return None
        raise UserError(condense(complaint.getvalue())) from None
    if unknown:
        raise UserError(_explain_unknown(unknown, default))
    parsed: Invocation[RunConfig[Any]] = invocation
    return parsed


def condense(box: str) -> str:
    """The sentence inside tyro's framed message: without frame, title and pointers to help."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    blocks = re.split(r"\n[─-]+\n", "\n".join(lines))
    # Where the output's encoding knows only ASCII there is no frame, and the title has a block.
    sentence = " ".join(blocks["╭" not in box and len(blocks) > 1].split())
    # A config's own complaint names its field already; tyro prefixes the path to the config.
    return re.sub(r"^Error parsing run[\w.]*: ", "", sentence)


def _explain_unknown(unknown: Sequence[str], default: Invocation[RunConfig[Any]]) -> str:
    word = next((word for word in unknown if word.startswith("-")), None)
    if word is None:
        return f"unexpected argument {unknown[0]}; options start with -- and --help lists them"
    fields = [*flatten(to_json(default.run)), "run-folder", "dry-run", "help"]
    options = ["--" + field.replace("_", "-") for field in fields]
    option = word.split("=")[0].replace("_", "-")
    near = max(options, key=lambda name: likeness(option, name))
    is_near = likeness(option, near) > 0.6
    advice = f"did you mean {near}?" if is_near else "--help lists all options"
    return f"unknown option {word.split('=')[0]}; {advice}"


def likeness(typed: str, name: str) -> float:
    """0 ... 1. An abbreviation (--optimizer.peak-lr) or a missing group (--warmup-steps) is near:
    the share of what was typed that the name contains counts as much as the usual ratio."""
    matcher = SequenceMatcher(None, typed, name)
    shared = sum(block.size for block in matcher.get_matching_blocks())
    return (matcher.ratio() + shared / len(typed)) / 2


def describe_run(run: RunConfig[Any], task: Task[Any, Any]) -> str:
    """Parameters, data and schedule of a run; the model is made without memory for its weights."""
    with torch.device("meta"):
        model = task.build_model()
    groups = task.parameter_groups(model)
    check_groups(model, groups)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(p.numel() for group in groups for p in group.parameters)
    lines = [f"parameters: {total:,} in all, {trained:,} trained"]
    for group in groups:
        count = sum(parameter.numel() for parameter in group.parameters)
        lines.append(f"  {group.name}: {count:,}, weight decay {group.weight_decay:g}")
    tokens = 0
    for name, source in task.sources().items():
        rows, _ = rows_of(source, 0, PackState())
        batch = source.collate([source.example(row) for row in rows])
        tokens += task.tokens(batch)
        lines.append(f"source {name}: {source.batch_size} examples, weight {source.weight:g}")
    lines.append(
        f"update: {tokens:,} tokens (the first one), {run.num_micro_batches} micro-batches, "
        f"{run.precision}"
    )
    lines.append(f"schedule: {run.steps:,} updates, about {tokens * run.steps:,} tokens")
    marks = sorted({1, max(run.schedule.warmup_steps, 1), run.steps // 2 or 1, run.steps})
    for update in marks:
        factor = learning_rate_factor(update, config=run.schedule, steps=run.steps)
        rate = factor * run.optimizer.peak_learning_rate
        lines.append(f"  learning rate at update {update:,}: {rate:.3g}")
    return "\n".join(lines) + "\n"
