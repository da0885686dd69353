"""Tunes a trained FLARE or Flamingo on instructions, then on requests as well (FLARE then mostly on
spoken ones), and aligns it by preferences, all through TRL; scores it before and after each round
on wordings, scenes, sounds and voices that no round shows. A Flamingo sees and reads only, and
keeps frozen what it keeps frozen in training.

    python scripts/instruct.py --model runs/quickstart-flare/flare/model --folder runs/instruct
    python scripts/instruct.py --model runs/quickstart/flamingo/model --folder runs/instruct

Every round leaves a model folder, the last one is `aligned`; the tables are in `report.md` and
`results.json`. The same command again continues behind the last round that is done.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.utils import logging

import flamingo  # noqa: F401 - makes itself known to the Auto classes
import flare  # noqa: F401 - as above
from common.checkpoint.pretrained import read_config, read_model, read_processor
from common.data.conversations.embedded import TaughtInstructions
from common.data.conversations.encoded import ChatFormat
from common.data.conversations.mixture import Mixed
from common.data.conversations.pairs import EmbeddedPairs, UnalignedRequests
from common.data.embedded import speech
from common.data.embedded.instructions import About, Instructions
from common.data.embedded.preferences import Channel, Preferences
from common.errors import UserError
from common.evaluation.instructions import instruction_accuracy
from common.evaluation.judging import RuleJudge
from common.evaluation.refusals import score_refusals
from common.evaluation.report import Json, Section, settings_section, table, write_report
from common.json_files import read_json_object
from common.training.alignment.bridge import RoundConfig, require_trl
from common.training.alignment.instruct import instruct
from common.training.alignment.prefer import PreferenceConfig, align
from common.training.options import parse_options
from flamingo.chat_format import FlamingoFormat
from flare.instruct.encoding import FlareFormat

MANY = 100_000  # drawn examples: no round sees one twice
NUM_INSTRUCTIONS = 480  # that a round is scored on
NUM_REQUESTS = 480
SEEDS_APART = 1_000  # of the requests of two rounds
SCORED = 20_000  # seeds from here on draw what is scored; no setting was chosen by them
# What is hard for a tiny model, to read and to hear, comes more often than in the scores.
TRAINED: Mapping[str, tuple[Channel, ...]] = {
    "mixed": ("text", "forged", *3 * ("drawn",), *3 * ("spoken",)),
    "heard": ("text", "forged", "drawn", *6 * ("spoken",)),
    "aligned": ("text", "forged", "drawn", *2 * ("spoken",)),
}
Tune = Callable[[PreTrainedModel, ChatFormat, Path], PreTrainedModel]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the rounds have to know of one of the two models."""

    form: Callable[..., ChatFormat]  # of a processor
    subjects: tuple[About, ...]  # of instructions
    channels: tuple[Channel, ...]  # of requests
    encoders: tuple[str, ...]  # frozen in the rounds that teach nothing new to see or to hear
    backbones: tuple[str, ...]  # frozen in all rounds, unless the whole model is to be tuned
    rounds: tuple[str, ...]


FAMILIES: Mapping[str, Family] = {
    "flare": Family(
        form=FlareFormat,
        subjects=get_args(About),
        channels=get_args(Channel),
        encoders=("vision_encoder", "audio_encoder"),
        backbones=(),
        rounds=("instructed", "mixed", "heard", "aligned"),
    ),
    "flamingo": Family(
        form=FlamingoFormat.with_roles,
        subjects=("scene", "text"),
        channels=("text", "forged", "drawn"),
        encoders=("vision_encoder",),
        backbones=("vision_encoder", "language_model"),
        rounds=("instructed", "mixed", "aligned"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The rounds and a report, in one folder."""

    # The trained model.
    model: Path
    # Where everything is written.
    folder: Path = Path("runs/instruct")
    # Seed of the examples, of their order, and of adapters.
    seed: int = 0
    # Updates on instructions alone.
    instruct_steps: int = 120
    # Updates on instructions and requests.
    mixed_steps: int = 450
    # Updates of a FLARE on instructions and requests, mostly spoken ones.
    heard_steps: int = 150
    # Updates on preferences.
    preference_steps: int = 200
    # Rank of adapters of the first round; none: all weights that are not frozen.
    lora_rank: int | None = None
    # Tune a Flamingo's vision encoder and language model, too, which training leaves as they are.
    whole: bool = False
    # Leave spoken requests out, for machines without the synthesiser.
    silent: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is not done yet; exit status 2 for a user's mistake."""
    logging.disable_progress_bar()
    try:
        options = parse_options(Options, arguments, description=__doc__)
        if options is None:
            return 0
        require_trl()
        started = time.monotonic()
        scores = rounds(options)
        path = report(options, scores)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nreport: {path}   ({time.monotonic() - started:.0f} s)")
    return 0


def rounds(options: Options) -> dict[str, "Score"]:
    """The scores of the model as it came and after each round.

    Raises:
        UserError: the model cannot be read, or speech is asked for and cannot be made.
    """
    folder, family = options.model, family_of(options.model)
    if "spoken" in channels(options, family) and not speech.is_available():
        raise UserError(f"speech needs {speech.PROGRAM}; install it, or use --silent")
    if options.folder.exists() and not options.folder.is_dir():
        raise UserError(f"--folder {options.folder} is a file; give a folder")
    rounds_to_run = steps(options, family)  # whose settings are looked at before anything is done
    scores = {"trained": scored(options, folder, "trained")}
    for name, tune in rounds_to_run.items():
        done = options.folder / name
        if not (done / "processor_config.json").is_file():
            print(f"\n== {name} ==", flush=True)
            model, form = load(folder)
            tune(model, form, done).save_pretrained(done)
            form.processor.save_pretrained(done)
        folder = done
        scores[name] = scored(options, folder, name)
    return scores


def steps(options: Options, family: Family) -> Mapping[str, Tune]:
    """The rounds in their order; none shows a request of another's."""
    seed, backbones = options.seed, () if options.whole else family.backbones
    instructions = Instructions(split="train", seed=seed, num=MANY, subjects=family.subjects)
    taught = TaughtInstructions(instructions)

    def requests(name: str, number: int) -> Preferences:
        known = channels(options, family)
        wanted = tuple(channel for channel in TRAINED[name] if channel in known)
        return Preferences(
            split="train", seed=seed + SEEDS_APART * number, num=MANY, channels=wanted
        )

    def mixed(name: str, number: int) -> Mixed:
        asked = UnalignedRequests(requests(name, number))
        return Mixed([(1.0, taught), (1.0, asked)], num=MANY, seed=seed)

    first = RoundConfig(
        steps=options.instruct_steps,
        learning_rate=2e-3,
        lora_rank=options.lora_rank,
        frozen=(*family.encoders, *backbones),
        seed=seed,
    )
    second = RoundConfig(steps=options.mixed_steps, learning_rate=1e-3, frozen=backbones, seed=seed)
    third = replace(second, steps=options.heard_steps)
    last = PreferenceConfig(
        round=RoundConfig(
            steps=options.preference_steps,
            learning_rate=1e-3,
            batch_size=16,
            frozen=(*family.encoders, *backbones),
            seed=seed,
        ),
        sft_weight=1.0,  # a small model's refusals are worth more than its closeness to itself
    )
    pairs = EmbeddedPairs(requests("aligned", 3), instructions, weights=(1.0, 1.0))
    tunes: dict[str, Tune] = {
        "instructed": lambda m, f, out: instruct(m, f, taught, first, folder=out)[0],
        "mixed": lambda m, f, out: instruct(m, f, mixed("mixed", 1), second, folder=out)[0],
        "heard": lambda m, f, out: instruct(m, f, mixed("heard", 2), third, folder=out)[0],
        "aligned": lambda m, f, out: align(m, f, pairs, last, folder=out)[0],
    }
    return {name: tunes[name] for name in family.rounds}


def channels(options: Options, family: Family) -> tuple[Channel, ...]:
    """Ways in which requests come to this model."""
    return tuple(c for c in family.channels if c != "spoken" or not options.silent)


def family_of(folder: Path) -> Family:
    """What is known of the model in a folder.

    Raises:
        UserError: it cannot be read, or is neither of the two.
    """
    model_type = read_config(folder).model_type
    if model_type not in FAMILIES:
        raise UserError(
            f"{folder} holds a {model_type}; give a folder of a {' or a '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def load(folder: Path) -> tuple[PreTrainedModel, ChatFormat]:
    """The model and how it writes conversations.

    Raises:
        UserError: they cannot be read.
    """
    family = family_of(folder)
    model = read_model(AutoModelForImageTextToText, folder, config=read_config(folder))
    return model, family.form(read_processor(AutoProcessor, folder))


Score = dict[str, tuple[int, int]]  # right answers, or refusals, and how many there were


def scored(options: Options, folder: Path, name: str) -> Score:
    """Held-out instructions by attribute, and refusals by channel; kept beside the rounds.

    Raises:
        UserError: the model, or what was kept of it, cannot be read.
    """
    kept = options.folder / f"score_{name}.json"
    if kept.is_file():
        return read_score(kept)
    family, (model, form) = family_of(folder), load(folder)
    drawn = Instructions(
        split="held_out", seed=SCORED + options.seed, num=NUM_INSTRUCTIONS, subjects=family.subjects
    )
    held_out = [drawn[index] for index in range(NUM_INSTRUCTIONS)]
    score: Score = instruction_accuracy(model, form, held_out)
    every = channels(options, family)
    asked = Preferences(
        split="held_out", seed=SCORED + options.seed, num=NUM_REQUESTS, channels=every
    )
    requests = [asked[index] for index in range(NUM_REQUESTS)]
    for found in score_refusals(model, form, requests, judge=RuleJudge()):
        kind = "harmful" if found.is_harmful else "harmless"
        score[f"{kind} {found.channel} refused"] = (found.refused, found.num)
        score[f"{kind} {found.channel} as preferred"] = (found.preferred, found.num)
    options.folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(score, indent=1) + "\n")
    print(f"{name}: instructions {percent(instructions_of(score))}", flush=True)
    return score


def read_score(file: Path) -> Score:
    """What `scored` has kept.

    Raises:
        UserError: the file holds something else.
    """
    score: Score = {}
    for what, counts in read_json_object(file).items():
        match counts:
            case [int(right), int(num)] if 0 <= right <= num > 0:
                score[what] = (right, num)
            case _:
                raise UserError(f"{file} has no two counts for {what}; remove the file")
    return score


def report(options: Options, scores: Mapping[str, Score]) -> Path:
    """Before and after each round, as Markdown and as JSON."""
    names = list(scores)
    totals: dict[str, Callable[[Score], float]] = {
        "instructions answered exactly": instructions_of,
        "harmful requests refused": lambda score: share(score, "harmful"),
        "harmless look-alikes refused": lambda score: share(score, "harmless"),
    }
    rows = [[what, *(percent(of(scores[name])) for name in names)] for what, of in totals.items()]
    details = [
        [what, str(scores[names[0]][what][1])]
        + [percent(scores[name][what][0] / scores[name][what][1]) for name in names]
        for what in scores[names[0]]
    ]
    sections = [
        Section(title="Before and after", text=table(["held out", *names], rows)),
        Section(title="Each", text=table(["held out", "number", *names], details)),
        settings_section(
            commands=[
                f"python scripts/instruct.py --model {options.model} --folder {options.folder}"
            ],
            settings={"options": {name: str(value) for name, value in asdict(options).items()}},
        ),
    ]
    results: dict[str, Json] = {
        name: {what: list(counts) for what, counts in score.items()}
        for name, score in scores.items()
    }
    for row in [["", *names], *rows]:
        print("  ".join(f"{cell:>12}" if n else f"{cell:<32}" for n, cell in enumerate(row)))
    return write_report(
        options.folder, title="Instructions and safety", sections=sections, results=results
    )


def instructions_of(score: Score) -> float:
    """The share of instructions that were answered with exactly the right word."""
    return _share([counts for what, counts in score.items() if not what.startswith("harm")])


def share(score: Score, kind: str) -> float:
    """The share of requests of one kind that were refused."""
    return _share([score[what] for what in score if what.split()[::2] == [kind, "refused"]])


def percent(value: float) -> str:
    """0.5 -> `50.0 %`"""
    return f"{100 * value:.1f} %"


def _share(counts: Sequence[tuple[int, int]]) -> float:
    return sum(right for right, _ in counts) / sum(num for _, num in counts)


if __name__ == "__main__":
    sys.exit(main())
