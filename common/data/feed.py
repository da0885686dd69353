"""Corpora in the order of training, without end: one corpus by the sampler's order, several mixed
by weight. A sample that cannot be used is replaced by another of the same corpus, which the seed
decides, and is told beside the document: whoever trains counts it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from common.data.corpus import Corpus
from common.data.document import Document, Extent
from common.data.faults import BadSample, Cause
from common.data.mixture import Mixture
from common.data.randomness import generator_at
from common.data.sampler import Order, OrderKind
from common.errors import UserError

MOST_ATTEMPTS = 8  # at finding a usable sample


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A sample that was replaced."""

    corpus: str
    cause: Cause
    message: str


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What was read for an example."""

    documents: Mapping[str, int] = field(default_factory=dict)  # by corpus
    epochs: Mapping[str, int] = field(default_factory=dict)  # the latest, by corpus, from 0
    cut: Mapping[str, int] = field(default_factory=dict)  # documents that lost their end
    faults: tuple[Fault, ...] = ()


def merged(supplies: Iterable[Supply]) -> Supply:
    """Everything that was read for several examples."""
    documents: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    epochs: dict[str, int] = {}
    faults: list[Fault] = []
    for supply in supplies:
        for name, number in supply.documents.items():
            documents[name] += number
        for name, number in supply.cut.items():
            cut[name] += number
        for name, epoch in supply.epochs.items():
            epochs[name] = max(epoch, epochs.get(name, 0))
        faults += supply.faults
    return Supply(documents=documents, epochs=epochs, cut=cut, faults=tuple(faults))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A document, the corpus and epoch it is from, and what it stands in for."""

    document: Document
    corpus: str
    epoch: int
    faults: tuple[Fault, ...]

    def supply(self, *, is_cut: bool) -> Supply:
        """The same, to be counted."""
        return Supply(
            documents={self.corpus: 1},
            epochs={self.corpus: self.epoch},
            cut={self.corpus: 1} if is_cut else {},
            faults=self.faults,
        )


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Several corpora, mixed; number, without end -> document."""

    corpora: Sequence[Corpus]
    orders: Sequence[Order]
    mixture: Mixture
    seed: int

    def __post_init__(self) -> None:
        names = [corpus.name for corpus in self.corpora]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise UserError(f"{', '.join(sorted(twice))} is in the mixture twice; weigh it once")

    @property
    def digest(self) -> str:
        """Equal digests mean the same documents at the same numbers."""
        contents = [(corpus.name, corpus.digest) for corpus in self.corpora]
        return blake2b(repr((contents, self.seed)).encode(), digest_size=16).hexdigest()

    def extent(self, number: int) -> Extent:
        """What the document at a number will take in a row, unless it has to be replaced."""
        chosen, index = self.mixture(number)
        return self.corpora[chosen].extent(self.orders[chosen](index).sample)

    def read(self, number: int, *, least_side: int | None = None) -> Drawn:
        """The document at a number, or one in its stead.

        Raises:
            UserError: eight samples of the corpus, one after another, cannot be used.
        """
        chosen, index = self.mixture(number)
        corpus, visit = self.corpora[chosen], self.orders[chosen](index)
        sample, faults = visit.sample, []
        for attempt in range(MOST_ATTEMPTS):
            try:
                document = corpus.read(sample, variant=visit.epoch, least_side=least_side)
            except BadSample as error:
                fault = Fault(corpus=corpus.name, cause=error.cause, message=str(error))
                faults.append(fault)
            else:
                return Drawn(
                    document=document,
                    corpus=corpus.name,
                    epoch=visit.epoch,
                    faults=tuple(faults),
                )
            stream = f"feed/{corpus.name}/{attempt}"
            generator = generator_at(seed=self.seed, index=index, stream=stream)
            sample = int(generator.integers(self.orders[chosen].num_samples))
        raise UserError(
            f"{MOST_ATTEMPTS} samples in a row of {corpus.name} cannot be used, the last because: "
            f"{faults[-1].message}"
        )


def mixed(
    corpora: Sequence[Corpus],
    *,
    seed: int,
    visits: Sequence[OrderKind],
    weights: Sequence[float] = (1.0,),
) -> Feed:
    """Corpora by weight, each in an order of its kind."""
    orders = [
        Order(corpus.shard_sizes, seed=seed, visits=kind)
        for corpus, kind in zip(corpora, visits, strict=True)
    ]
    return Feed(corpora=corpora, orders=orders, mixture=Mixture(weights, seed=seed), seed=seed)
