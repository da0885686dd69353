"""How well a model predicts documents: shards or plain files as training reads them, and text."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from common.data.corpus import Corpus, part_of
from common.data.document import Document
from common.data.faults import BadSample
from common.data.own_data import OwnKind, open_own
from common.data.randomness import generator_at
from common.errors import UserError
from common.evaluation.intervals import RESAMPLES
from common.evaluation.models import Reader
from common.evaluation.perplexity import perplexity
from common.evaluation.scores import Score, SuiteResult
from common.evaluation.work import Workplace, answered

MOST_NATS = 500.0  # a token; whose exponential is still a number
# Of a document: summed loss in nats, predicted tokens, bytes of its texts.
Sums: TypeAlias = tuple[float, int, int]


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig:
    """How well the model predicts the words of documents."""

    # A folder of shards as `prepare_data.py` writes it, or plain files: see --kind.
    documents: Path
    # text: a .txt or .jsonl file; interleaved: a .jsonl file of documents; image_pairs and
    # audio_pairs: folders of media and their captions. Each may be a folder of shards instead.
    kind: OwnKind = "text"
    # held_out: those at the end that training on the same folder holds out, 5 % and at most 1000.
    part: Literal["all", "held_out"] = "all"


def run_perplexity(config: PerplexityConfig, model: Reader, work: Workplace) -> SuiteResult:
    """Perplexity per predicted token, and bits per byte of all text, which do not depend on a
    tokenizer; documents that cannot be read are counted.

    Raises:
        UserError: nothing of the kind is at the path, no document can be read, or the model's
            losses are no numbers.
    """
    corpus = open_own(config.kind, config.documents)
    if config.part == "held_out":
        corpus = part_of(corpus, "validation", name=str(config.documents))
    places = work.evaluated(range(sum(corpus.shard_sizes)))
    answers = answered(
        places,
        keys=[str(place) for place in places],
        answer=partial(_losses, corpus, model),
        work=work,
        name="losses",
    )
    read: list[Sums] = [
        (loss, count, num_bytes)  # JSON knows no tuples
        for loss, count, num_bytes in (item for item in answers if not isinstance(item, str))
    ]
    num_tokens = sum(count for _, count, _ in read)
    if not num_tokens:
        raise UserError(f"{config.documents} has no document of which the model predicts a token")
    if not math.isfinite(mean := sum(loss for loss, *_ in read) / num_tokens) or mean > MOST_NATS:
        raise UserError(
            f"the loss is {mean:.3g} a token: the model is damaged, or needs another --dtype"
        )
    faults = Counter(answer for answer in answers if isinstance(answer, str))
    return SuiteResult(
        name=f"Perplexity of {config.documents.name}",
        scores=_scores(read),
        notes=(
            f"{num_tokens:,} predicted tokens, "
            f"{sum(num_bytes for *_, num_bytes in read):,} bytes of text; intervals are of the "
            "bootstrap over documents",
            *(f"{num} of {len(answers)} documents: {cause}" for cause, num in faults.items()),
        ),
    )


def _losses(corpus: Corpus, model: Reader, places: Sequence[int]) -> list[Sums | str]:
    """Sums of each document, or why it cannot be read."""
    found = [_read(corpus, place) for place in places]
    documents = [document for document in found if isinstance(document, Document)]
    losses = iter(model.losses(documents) if documents else ())
    return [item if isinstance(item, str) else (*next(losses), _num_bytes(item)) for item in found]


def _read(corpus: Corpus, place: int) -> Document | str:
    try:
        return corpus.read(place)
    except BadSample as fault:
        return fault.cause


def _num_bytes(document: Document) -> int:
    return sum(len(part.encode()) for part in document.parts if isinstance(part, str))


def _scores(read: Sequence[Sums]) -> tuple[Score, ...]:
    figures: dict[str, Callable[[float, float, float], float]] = {
        "perplexity": lambda loss, tokens, _: perplexity(loss, int(tokens)),
        "bits per byte": lambda loss, _, num_bytes: loss / math.log(2) / num_bytes,
    }
    sums = np.array(read, dtype=np.float64)
    generator = generator_at(seed=0, index=len(read), stream="perplexity/bootstrap")
    draws = [
        sums[generator.integers(len(read), size=len(read))].sum(axis=0) for _ in range(RESAMPLES)
    ]
    scores = []
    for metric, figure in figures.items():
        low, high = np.quantile([figure(*draw) for draw in draws], [0.025, 0.975])
        scores.append(
            Score(
                metric=metric,
                value=figure(*sums.sum(axis=0)),
                num=len(read),
                interval=(float(low), float(high)),
            )
        )
    return tuple(scores)
