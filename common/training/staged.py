"""The gradient of an update whose model is a pipeline between a start and a finish.

Every rank reads and starts its own micro-batches, as without a pipeline. Those of a pipeline group
then go through the stages together, first the captions alone for the contrast, then everything:

    start, without a graph -> captions through the stages -> contrast over all ranks
    -> all rows through the stages, forward and backward -> start again, with a graph

What the stages and the contrast leave at the start's outputs, and at parameters that all ranks
hold, enters the second start as inner products (gradient caching, as in `contrast.py`). So the
negatives are those of the whole update, exactly.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn.functional import pad

from common.data.transfer import on_device
from common.parallel.engine import ModelT, ResultT, WrappedModel
from common.parallel.pipeline import Pipeline, Work
from common.training.balance import Scales
from common.training.contrast import Cached, Sizes, Tally, cache_contrast, inner
from common.training.loader import MicroBatch
from common.training.task import Pairs, Staged, Start, TextBatchT

ModelT_co = TypeVar("ModelT_co", bound=nn.Module, covariant=True)
Vectors = Mapping[str, Tensor]  # of a micro-batch, by contrastive term


@dataclass(frozen=True, kw_only=True)
class Part(Generic[TextBatchT]):
    """A micro-batch as all ranks of its group know it."""

    source: str
    weight: float
    batch: TextBatchT  # without media
    num_pairs: Mapping[str, int]  # by term


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What the stages and the contrast leave for the second start."""

    hidden: Sequence[Tensor]  # gradients of the own micro-batches' inputs of the stages
    contrasts: Mapping[str, Cached]  # by `source/term`
    parameters: Mapping[str, Tensor]  # gradients of parameters that all ranks hold, by name


@runtime_checkable
class StagedEngine(Protocol[ModelT_co]):
    """What an update asks of `common.parallel.pipelined.Pipelined`."""

    pipeline: Pipeline

    def run(self, work: Callable[[ModelT_co], ResultT]) -> ResultT:
        """A start, or its surrogate, with the parameters that all ranks hold."""
        ...

    def drive(self, work: Callable[[ModelT_co], ResultT]) -> ResultT:
        """What lies between the starts."""
        ...

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Around a start with a graph and its backward pass."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""
        ...


class StagedUpdate(Generic[ModelT, TextBatchT]):
    """One update of a rank's micro-batches; `differentiate` is the whole of it.

    counts, sizes: targets per `source/term` over all ranks, and on each.
    """

    def __init__(
        self,
        task: Staged[ModelT, TextBatchT],
        engine: StagedEngine[ModelT],
        batches: Sequence[MicroBatch[TextBatchT]],
        *,
        counts: Mapping[str, int],
        sizes: Sizes,
        scales: Scales,
        device: torch.device,
    ) -> None:
        self.task, self.engine, self.pipeline = task, engine, engine.pipeline
        self.batches, self.counts, self.sizes, self.scales = batches, counts, sizes, scales
        self.device = device
        # The last stage knows the sums; all ranks report them.
        self.tally = Tally(
            sums={term: torch.zeros((), device=device) for term in counts}, negatives={}
        )

    def differentiate(self) -> Tally:
        """Leave the gradient of the update's loss in the parameters."""
        # A micro-batch meets the same dropout in both starts, and each another one.
        seeds = torch.randint(2**62, (len(self.batches),)).tolist()
        starts = []
        for seed, part in zip(seeds, self.batches, strict=True):
            torch.manual_seed(seed)
            with torch.no_grad():
                starts.append(self.engine.run(partial(self._start, part)))
        parts = self._parts_of_group(starts)
        passed = self.engine.drive(partial(self._pass, starts, parts))
        for index, seed in enumerate(seeds):
            torch.manual_seed(seed)
            with self.engine.accumulating(is_last=index == len(seeds) - 1):
                self.engine.backward(self.engine.run(partial(self._surrogate, index, passed)))
        return self.tally

    def _start(self, part: MicroBatch[TextBatchT], model: ModelT) -> Start:
        return self.task.start(model, part.source, on_device(part.batch, self.device))

    def _parts_of_group(self, starts: Sequence[Start]) -> list[Part[TextBatchT]]:
        """All micro-batches that go through the stages, in the order of the group's ranks."""
        own = [
            Part(
                source=micro.source,
                weight=micro.weight,
                batch=micro.batch.text(),
                num_pairs={term: len(ids) for term, ids in start.ids.items()},
            )
            for micro, start in zip(self.batches, starts, strict=True)
        ]
        return [
            replace(part, batch=on_device(part.batch, self.device))
            for parts in self.pipeline.ranks.collect(own)
            for part in parts
        ]

    def _pass(
        self, starts: Sequence[Start], parts: Sequence[Part[TextBatchT]], model: ModelT
    ) -> Passed:
        """Between the two starts; what all ranks hold and no unit owns is there throughout."""
        contrasts = self._contrasts(starts, parts, model)
        own_gradients = [
            {
                name: contrasts[f"{micro.source}/{name}"].rows[index][1]
                for name in sorted(start.media)
            }
            for index, (micro, start) in enumerate(zip(self.batches, starts, strict=True))
        ]
        text_gradients = _from_owners(own_gradients, parts, self.pipeline)
        leaves = _leaves(model) if self.pipeline.ranks.own == self.pipeline.last else {}

        def loss(x: Tensor, number: int) -> Tensor:
            x = x.requires_grad_()
            with self.pipeline.computing():
                total = self._loss(
                    x, parts[number], text_gradients[number], leaves=leaves, model=model
                )
            torch.autograd.backward(total)
            assert x.grad is not None
            return x.grad

        inputs = self._inputs([start.hidden for start in starts], parts, whole=True)
        gradients = self.pipeline.train(inputs, self._works(parts, model, whole=True), loss)
        hidden = self.pipeline.ranks.scatter(
            gradients, like=inputs[0], number=len(starts), source=self.pipeline.first
        )
        return Passed(
            hidden=[h[: len(s.hidden)] for h, s in zip(hidden, starts, strict=True)],
            contrasts=contrasts,
            parameters={n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None},
        )

    def _contrasts(
        self, starts: Sequence[Start], parts: Sequence[Part[TextBatchT]], model: ModelT
    ) -> dict[str, Cached]:
        """Captions go through the stages and meet their media where these are."""
        captions = [
            start.hidden[-len(micro.batch.captions()) :]
            for micro, start in zip(self.batches, starts, strict=True)
        ]
        inputs = self._inputs(captions, parts, whole=False)
        outputs = self.pipeline.forward(inputs, self._works(parts, model, whole=False))
        vectors = []
        for part, x in zip(parts, outputs, strict=False):  # nothing but on the last stage's rank
            batch = part.batch.captions()
            with self.pipeline.computing():
                done = self.task.finish(model, part.source, batch, x[: len(batch)])
            vectors.append(done.texts)
        texts = _from_last(vectors, parts, starts, self.pipeline)
        pairs: dict[str, dict[int, Pairs]] = {}
        for index, (micro, start) in enumerate(zip(self.batches, starts, strict=True)):
            for term, pair in start.paired(texts[index]).items():
                pairs.setdefault(f"{micro.source}/{term}", {})[index] = pair
        contrasts = {
            name: cache_contrast(self.task, name, rows, model, sizes=self.sizes[name])
            for name, rows in pairs.items()
        }
        for name, cached in contrasts.items():
            self.tally.sums[name] = cached.loss
            self.tally.negatives[name] = cached.negatives
        return contrasts

    def _inputs(
        self, own: Sequence[Tensor], parts: Sequence[Part[TextBatchT]], *, whole: bool
    ) -> list[Tensor]:
        """On the first stage's rank those of all; elsewhere only their shape is true."""
        num_rows = max(len(batch) for batch in _batches(parts, whole=whole))
        rows = [_with_rows(x, num_rows) for x in own]
        return self.pipeline.ranks.gather(rows, target=self.pipeline.first)

    def _works(
        self, parts: Sequence[Part[TextBatchT]], model: ModelT, *, whole: bool
    ) -> list[Work]:
        batches = _batches(parts, whole=whole)
        num_rows = max(len(batch) for batch in batches)

        def work(batch: TextBatchT, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
            return self.task.advance(model, blocks, x, batch)

        return [partial(work, batch.padded(num_rows)) for batch in batches]

    def _loss(
        self,
        x: Tensor,
        part: Part[TextBatchT],
        text_gradients: Vectors,
        *,
        leaves: Mapping[str, Tensor],
        model: ModelT,
    ) -> Tensor:
        """A micro-batch's part of the update's loss, contrasts as sums of the same gradient."""

        def finish(model: ModelT) -> Tensor:
            done = self.task.finish(model, part.source, part.batch, x[: len(part.batch)])
            terms = {f"{part.source}/{term}": loss for term, loss in done.losses.items()}
            for term, loss in terms.items():
                self.tally.sums[term] = self.tally.sums[term] + loss.detach()
            for term, vectors in done.texts.items():
                terms[f"{part.source}/{term}"] = inner(vectors, text_gradients[term])
            return self._weighed(terms) * part.weight

        swapped = {f"model.{name}": leaf for name, leaf in leaves.items()}
        total: Tensor = functional_call(WrappedModel(model), swapped, (finish,), tie_weights=False)
        return total

    def _surrogate(self, index: int, passed: Passed, model: ModelT) -> Tensor:
        """A sum whose gradient is the loss's, at the start of a micro-batch."""
        micro = self.batches[index]
        start = self._start(micro, model)
        terms = {}
        for term, media in start.media.items():
            cached = passed.contrasts[f"{micro.source}/{term}"]
            rows, _ = cached.rows[index]
            terms[f"{micro.source}/{term}"] = inner(media, rows) + cached.at_parameters(model)
        total = inner(start.hidden, passed.hidden[index])
        if terms:
            total = total + self._weighed(terms) * micro.weight
        if index == 0:
            for name, gradient in passed.parameters.items():
                total = total + inner(model.get_parameter(name), gradient)
        return total

    def _weighed(self, terms: Mapping[str, Tensor]) -> Tensor:
        means = [
            self.scales.weigh(term, loss / max(self.counts[term], 1))
            for term, loss in terms.items()
        ]
        return torch.stack(means).sum()


def _batches(parts: Sequence[Part[TextBatchT]], *, whole: bool) -> list[TextBatchT]:
    batches = [part.batch for part in parts]
    return batches if whole else [batch.captions() for batch in batches]


def _with_rows(x: Tensor, number: int) -> Tensor:
    return pad(x, (0, 0, 0, 0, 0, number - len(x)))


def _leaves(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trained parameters that no unit owns, to catch their gradients."""
    return {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not isinstance(parameter, DTensor)
    }


def _from_last(
    vectors: Sequence[Vectors],
    parts: Sequence[Part[TextBatchT]],
    starts: Sequence[Start],
    pipeline: Pipeline,
) -> list[Vectors]:
    """The own micro-batches' vectors, from the last stage's rank, which has them all."""
    like = next(iter(starts[0].media.values()))
    rows = torch.cat(
        [x.to(like.dtype) for v in vectors for _, x in sorted(v.items())] or [like[:0]]
    )
    shape = (sum(sum(part.num_pairs.values()) for part in parts), like.shape[1])
    whole = pipeline.ranks.broadcast(rows, shape=shape, source=pipeline.last)
    first = pipeline.ranks.own * len(starts)
    return _by_term(whole, parts)[first : first + len(starts)]


def _from_owners(
    own: Sequence[Vectors], parts: Sequence[Part[TextBatchT]], pipeline: Pipeline
) -> list[Vectors]:
    """Those of all micro-batches of the group, from the ranks that read them."""
    rows = torch.cat([x for vectors in own for _, x in sorted(vectors.items())])
    gathered: list[Vectors] = []
    for rank in range(pipeline.ranks.number):
        theirs = parts[rank * len(own) : (rank + 1) * len(own)]
        shape = (sum(sum(part.num_pairs.values()) for part in theirs), rows.shape[1])
        gathered += _by_term(pipeline.ranks.broadcast(rows, shape=shape, source=rank), theirs)
    return gathered


def _by_term(rows: Tensor, parts: Sequence[Part[TextBatchT]]) -> list[Vectors]:
    """Rows of each micro-batch and term, which lie behind one another."""
    numbers = [number for part in parts for _, number in sorted(part.num_pairs.items())]
    pieces = iter(rows.split(numbers))
    return [{term: next(pieces) for term in sorted(part.num_pairs)} for part in parts]
