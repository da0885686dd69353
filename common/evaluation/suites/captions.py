"""Captions of images and sounds, written after some demonstrations by the protocol of Flamingo and
OpenFlamingo (`Output:`, beams, 20 tokens), and compared with what people say: COCO, Flickr30k,
AudioCaps and Clotho."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import tyro

from common.data.prompts import OUTPUT_PROMPT
from common.errors import UserError
from common.evaluation.benchmarks.captioned import (
    TITLES,
    CaptionedDataset,
    CaptionedMedium,
    read_captioned,
)
from common.evaluation.benchmarks.captions import Split
from common.evaluation.benchmarks.submissions import write_captions
from common.evaluation.metrics.bleu import bleu
from common.evaluation.metrics.caption_tokens import tokenised
from common.evaluation.metrics.cider import cider_d_each
from common.evaluation.metrics.meteor import meteor
from common.evaluation.metrics.rouge import sentence_rouge_l
from common.evaluation.models import Prompt, Writer
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.shots.contamination import ContaminationConfig, find_contamination
from common.evaluation.shots.exemplars import Exemplar, MediumKind, read_medium
from common.evaluation.shots.figures import (
    in_turn,
    interval_note,
    mean_scores,
    over_seeds,
    score_of,
    seeds_note,
    views,
)
from common.evaluation.shots.protocol import Setting, ShotsConfig, few_shot, settings_of
from common.evaluation.suites.embedding import missing_clips
from common.evaluation.work import Workplace

NUM_SAMPLES = 8
KARPATHY = ("coco-karpathy", "flickr30k")  # whose JSON files hold all splits


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Captions of images or sounds: COCO, Flickr30k, AudioCaps or Clotho."""

    # Whose official files these are. coco: COCO's own annotations; coco-karpathy: Karpathy's.
    dataset: CaptionedDataset
    # File of captions: dataset_coco.json, captions_val2014.json, dataset_flickr30k.json or
    # results.csv, AudioCaps' test.csv, clotho_captions_evaluation.csv.
    captions: Path
    # Folder of the images or recordings; with coco-karpathy the one that holds val2014.
    media: Path
    # Splits of Karpathy's files; the other files hold one split each.
    splits: tuple[Split, ...] = ("test",)
    # File of captions from which demonstrations are made; Karpathy's files hold them themselves.
    train_captions: Path | None = None
    # Folder of their images or recordings; the same as of the others if not given.
    train_media: Path | None = None
    # Splits of Karpathy's files from which demonstrations are made.
    train_splits: tuple[Split, ...] = ("train",)
    # Longest caption in tokens.
    max_new_tokens: int = 20
    # Captions that a beam search keeps; 1: greedy.
    beams: int = 3
    # meteor-1.5.jar, with its data folder beside it; METEOR needs Java. Left out if not given.
    meteor_jar: Path | None = None
    shots: Annotated[ShotsConfig, tyro.conf.arg(name="")] = field(default_factory=ShotsConfig)
    contamination: Annotated[ContaminationConfig, tyro.conf.arg(name="")] = field(
        default_factory=ContaminationConfig
    )

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.beams) < 1:
            raise UserError(f"{self.max_new_tokens=} {self.beams=}: use at least 1")
        if not self.splits or not self.train_splits:
            raise UserError("name at least one split to evaluate and one of demonstrations")


def run_captions(config: CaptionsConfig, model: Writer, work: Workplace) -> SuiteResult:
    """Caption every medium in every setting; captions of images also lie in `submissions`.

    Raises:
        UserError: a file is missing or malformed, or a setting asks for what was not named.
    """
    if config.meteor_jar is not None:
        meteor(["a dog"], [["a dog"]], jar=config.meteor_jar)  # before hours of writing
    found = read_captioned(
        config.dataset, config.captions, media=config.media, splits=config.splits
    )
    media = work.evaluated(found.media)
    asking = few_shot(
        config.shots,
        kind=found.kind,
        queries=[_exemplar(medium) for medium in media],
        pool=[_exemplar(medium) for medium in _training_media(config)],
        model=model,
        work=work,
    )
    seen = find_contamination(asking, config=config.contamination)
    judge = _Judge(
        references=[[tokenised(caption) for caption in medium.captions] for medium in media],
        contaminated=seen.places,
        meteor_jar=config.meteor_jar,
        work=work,
    )
    settings = settings_of(config.shots)
    shown = max((row for row in settings if not row.blind), key=lambda row: row.shots)
    scores, samples = list[Score](), list[Sample]()
    notes = [*seen.notes, *missing_clips(found.missing, num_found=len(found.media))]
    notes.append(interval_note(f"{found.kind}s"))
    for setting in settings:
        captions = [
            [one_caption(text) for text in texts]
            for texts in asking.ask(setting, partial(_write, model, config))
        ]
        if found.kind == "image":
            _submit(captions, media, setting=setting, work=work)
        judged = judge(captions, setting=setting)
        scores += judged.scores
        notes += seeds_note("CIDEr-D", list(map(fmean, judged.values)), setting=setting)
        if setting == shown:
            samples = _samples(media, captions[0], judged.values[0], kind=found.kind)
    return SuiteResult(
        name=f"{TITLES[config.dataset]} captions",
        scores=tuple(scores),
        samples=tuple(samples),
        notes=tuple(notes),
    )


def one_caption(written: str) -> str:
    """What counts of what a model wrote, as OpenFlamingo cuts it: not the next line or output, and
    no quotation marks: `' "a dog"\\nOutput: a cat' -> "a dog"`."""
    return re.split(r"Output|\n", written.strip(), maxsplit=1)[0].replace('"', "").strip()


def _training_media(config: CaptionsConfig) -> tuple[CaptionedMedium, ...]:
    """Those of the file that was named; files of Karpathy's hold a training split themselves."""
    has_splits = config.dataset in KARPATHY and config.captions.suffix == ".json"
    if not config.shots.needs_pool or (config.train_captions is None and not has_splits):
        return ()
    return read_captioned(
        config.dataset,
        config.train_captions or config.captions,
        media=config.train_media or config.media,
        splits=config.train_splits,
    ).media


def _exemplar(medium: CaptionedMedium) -> Exemplar:
    if not medium.captions:
        raise UserError(f"{medium.path} has no caption; remove it from the file of captions")
    return Exemplar(
        key=medium.key,
        medium=medium.path,
        medium_id=medium.path.name,
        text=OUTPUT_PROMPT,
        answer=medium.captions[0].strip(),  # as OpenFlamingo
    )


def _write(model: Writer, config: CaptionsConfig, prompts: Sequence[Prompt]) -> list[str]:
    return model.write(prompts, max_new_tokens=config.max_new_tokens, num_beams=config.beams)


def _submit(
    captions: Sequence[Sequence[str]],
    media: Sequence[CaptionedMedium],
    *,
    setting: Setting,
    work: Workplace,
) -> None:
    if setting.blind or not work.processes.is_main:
        return
    for seed, said in zip(setting.seeds, captions, strict=True):
        numbers = (int(medium.key) for medium in media)
        path = work.folder / "submissions" / f"{setting.name(seed)}.json"
        write_captions(dict(zip(numbers, said, strict=True)), path)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Figures of a setting, and CIDEr-D of each caption under each seed."""

    scores: list[Score]
    values: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Compares captions with tokenised references."""

    references: Sequence[Sequence[str]]
    contaminated: frozenset[int]
    meteor_jar: Path | None
    work: Workplace

    def __call__(self, captions: Sequence[Sequence[str]], *, setting: Setting) -> _Judged:
        tokens = [[tokenised(caption) for caption in said] for said in captions]
        cider = [[100 * x for x in cider_d_each(said, self.references)] for said in tokens]
        rouge = [
            [
                100 * sentence_rouge_l(text, own)
                for text, own in zip(said, self.references, strict=True)
            ]
            for said in tokens
        ]
        scores = list[Score]()
        for metric, values in (("CIDEr-D", cider), ("ROUGE-L", rouge)):
            scores += mean_scores(
                metric, over_seeds(values), setting=setting, contaminated=self.contaminated
            )
        for places, part in views(len(self.references), contaminated=self.contaminated):
            found = [self._of_corpus(said, places) for said in tokens]
            for metric in found[0]:
                value = 100 * fmean(figures[metric] for figures in found)
                scores.append(score_of(metric, value, setting=setting, num=len(places), part=part))
        return _Judged(scores=scores, values=cider)

    def _of_corpus(self, tokens: Sequence[str], places: Sequence[int]) -> dict[str, float]:
        """Metrics that are no means over captions, so that they have no interval."""
        said = [tokens[place] for place in places]
        references = [self.references[place] for place in places]
        found = {f"BLEU-{size}": x for size, x in enumerate(bleu(said, references), 1)}
        if (jar := self.meteor_jar) is not None:
            found["METEOR"] = self.work.processes.ranks.on_main(
                lambda: meteor(said, references, jar=jar)
            )
        return found


def _samples(
    media: Sequence[CaptionedMedium],
    captions: Sequence[str],
    values: Sequence[float],
    *,
    kind: MediumKind,
) -> list[Sample]:
    """A hit is at least as close to what people say as the mean caption, and not wholly off."""
    is_hit = [value >= max(fmean(values), 1e-9) for value in values]
    return [
        Sample(
            media=(read_medium(media[place].path, kind=kind),),
            asked=OUTPUT_PROMPT,
            written=captions[place],
            expected=media[place].captions,
            is_hit=is_hit[place],
        )
        for place in in_turn(is_hit, num=NUM_SAMPLES)
    ]
