"""Few-shot evaluation as Flamingo and OpenFlamingo publish it: 0, 4, 8, 16 or 32 demonstrations
from a training set before each query, drawn at random under several seeds or by RICES; at 0 shots
two examples without their media; and every prompt once more blind, all media removed. It knows what
precedes a query, not what is asked of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from torch import Tensor

from common.data.audio import read_audio
from common.data.images import read_image
from common.errors import UserError
from common.evaluation.models import ImageEmbedder, Prompt, SoundEmbedder, Turn
from common.evaluation.shots.demonstrations import Choose, part_of, random_demonstrations
from common.evaluation.shots.exemplars import Exemplar, MediumKind, is_same_medium, read_medium
from common.evaluation.shots.rices import rices_demonstrations
from common.evaluation.work import Workplace, answered

AnswerT = TypeVar("AnswerT")
Method = Literal["random", "rices"]


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """How many demonstrations stand before a query, and which."""

    # Numbers of demonstrations, each asked once for all queries.
    shots: tuple[int, ...] = (0, 4, 8, 16, 32)
    # random: drawn for each query under every seed; rices: those with the most similar media.
    demonstrations: tuple[Method, ...] = ("random",)
    # Seeds of random demonstrations; figures are meaned over them.
    seeds: tuple[int, ...] = (0, 1, 2)
    # Examples shown without their media at 0 shots; two as published, 0 for none at all.
    text_only_examples: int = 2
    # Also ask every prompt without any medium: what the model answers from words alone.
    blind: bool = True
    # Demonstrations come from this many of the training pool, drawn once; all if not given.
    pool_size: int | None = None

    def __post_init__(self) -> None:
        named = self.shots and self.demonstrations and self.seeds
        least = min(*self.shots, *self.seeds, self.text_only_examples, 0)
        if not named or least < 0 or (self.pool_size or 1) < 1:
            raise UserError(
                f"{self.shots=} {self.demonstrations=} {self.seeds=} {self.text_only_examples=} "
                f"{self.pool_size=}: name at least one of each, none negative"
            )
        for values in (self.shots, self.demonstrations, self.seeds):
            if len(set(values)) < len(values):
                raise UserError(f"{values} names something twice; name it once")

    @property
    def needs_pool(self) -> bool:
        """Whether any query is preceded by an example."""
        return any(self.num_examples(shots) > 0 for shots in self.shots)

    def num_examples(self, shots: int) -> int:
        """How many examples stand before a query, with or without media."""
        return shots or self.text_only_examples


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of a table. Random demonstrations are drawn once for each seed, others once."""

    shots: int
    method: Method | Literal["none"]  # none: the query stands alone
    seeds: tuple[int | None, ...]
    blind: bool = False

    def name(self, seed: int | None) -> str:
        """`4-shot_random_seed-1_blind`"""
        parts = [f"{self.shots}-shot", self.method if self.method != "none" else "alone"]
        parts += [] if seed is None else [f"seed-{seed}"]
        return "_".join([*parts, *(["blind"] if self.blind else [])])


def settings_of(config: ShotsConfig) -> tuple[Setting, ...]:
    """All rows in the order of the config, each blind one behind the one with media."""
    found: dict[Setting, None] = {}
    for method in config.demonstrations:
        for shots in config.shots:
            if config.num_examples(shots) == 0:
                setting = Setting(shots=shots, method="none", seeds=(None,))
            else:
                seeds = config.seeds if method == "random" else (None,)
                setting = Setting(shots=shots, method=method, seeds=seeds)
            found[setting] = None
            if config.blind:
                found[replace(setting, blind=True)] = None
    return tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShot:
    """Queries with the demonstrations that each of them gets."""

    config: ShotsConfig
    kind: MediumKind
    queries: Sequence[Exemplar]
    pool: Sequence[Exemplar]  # that demonstrations come from
    choices: Mapping[tuple[str, int | None], Choose]  # by method and seed
    work: Workplace

    def ask(
        self, setting: Setting, answer: Callable[[list[Prompt]], Sequence[AnswerT]]
    ) -> list[list[AnswerT]]:
        """Answers to all queries under each of a setting's seeds, those from before not again."""
        return [
            answered(
                range(len(self.queries)),
                keys=[query.key for query in self.queries],
                answer=_after(answer, partial(self.prompts, setting, seed)),
                work=self.work,
                name=setting.name(seed),
            )
            for seed in setting.seeds
        ]

    def prompts(self, setting: Setting, seed: int | None, places: Sequence[int]) -> list[Prompt]:
        """What some queries look like: examples in reading order, then the query."""
        num = self.config.num_examples(setting.shots)
        choose = self.choices.get((setting.method, seed))
        chosen = [()] * len(places) if choose is None else choose(places, num)
        return [
            self._prompt(setting, self.queries[place], examples)
            for place, examples in zip(places, chosen, strict=True)
        ]

    def _prompt(self, setting: Setting, query: Exemplar, examples: Sequence[Exemplar]) -> Prompt:
        assert not any(is_same_medium(example, query) for example in examples)
        read = partial(read_medium, kind=self.kind)
        show_examples = setting.shots > 0 and not setting.blind
        turns = [
            Turn(
                media=(read(example.medium),) if show_examples else (),
                text=example.text,
                answer=example.answer,
            )
            for example in examples
        ]
        media = () if setting.blind else (read(query.medium),)
        return (*turns, Turn(media=media, text=query.text))


def _after(
    answer: Callable[[list[Prompt]], Sequence[AnswerT]],
    prompts: Callable[[Sequence[int]], list[Prompt]],
) -> Callable[[Sequence[int]], Sequence[AnswerT]]:
    return lambda places: answer(prompts(places))


def few_shot(
    config: ShotsConfig,
    *,
    kind: MediumKind,
    queries: Sequence[Exemplar],
    pool: Sequence[Exemplar],
    model: object,
    work: Workplace,
) -> FewShot:
    """Queries with their demonstrations; vectors for RICES are made here.

    Args:
        pool: empty where no training file was named.
        model: that turns media into vectors, if RICES is asked for.

    Raises:
        UserError: demonstrations are asked for without a pool, or RICES of a model that has no
            vectors.
    """
    if not queries:
        raise UserError("the evaluated files hold nothing to ask; check them")
    if config.needs_pool and not pool:
        raise UserError(
            "demonstrations are drawn from training data; name its files (--train-... in --help) "
            "or ask for `--shots 0 --text-only-examples 0`"
        )
    drawn = part_of(pool, config.pool_size)
    choices: dict[tuple[str, int | None], Choose] = {}
    if config.needs_pool and "random" in config.demonstrations:
        for seed in config.seeds:
            choices["random", seed] = random_demonstrations(queries, drawn, seed=seed)
    if config.needs_pool and "rices" in config.demonstrations:
        embed = _embedding(model, kind=kind)
        most = max(config.num_examples(shots) for shots in config.shots)
        choices["rices", None] = rices_demonstrations(
            queries, drawn, most=most, embed=embed, work=work
        )
    return FewShot(
        config=config, kind=kind, queries=queries, pool=drawn, choices=choices, work=work
    )


def _embedding(model: object, *, kind: MediumKind) -> Callable[[Sequence[Path]], Tensor]:
    if kind == "image" and isinstance(model, ImageEmbedder):
        return lambda paths: model.image_vectors([read_image(path) for path in paths])
    if kind == "sound" and isinstance(model, SoundEmbedder):
        return lambda paths: model.sound_vectors([read_audio(path) for path in paths])
    raise UserError(
        f"RICES compares {kind}s by the model's own vectors, which this model does not make; "
        "ask for `--demonstrations random`"
    )
