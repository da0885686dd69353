"""Contrastive terms of an update, whose every row meets the rows of all micro-batches and ranks.

In one micro-batch the contrast is a part of the forward pass. Several never lie in memory together;
gradient caching (Gao et al., 2021) takes two passes and is exact. First the vectors of all
micro-batches, without a graph, and the contrast, differentiated down to its vectors. Then each
micro-batch with a graph, its contrastive loss replaced by one of the same gradient:

    sum(media * dL/dmedia) + sum(text * dL/dtext) + temperature * dL/dtemperature / micro-batches
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.data.transfer import on_device
from common.objectives.contrastive import Contrast
from common.training.gather import gather_rows
from common.training.loader import MicroBatch
from common.training.task import BatchT, Contrastive, ModelT, Objective, Pairs

Sizes = Mapping[str, Sequence[int]]  # pairs of an update on each rank, by `source/term`
# Does work on the bare model; see `common.parallel.engine`.
Run = Callable[[Callable[[ModelT], Any]], Any]


class Terms(NamedTuple):
    """Loss terms of one micro-batch by `source/term`."""

    losses: dict[str, Tensor]  # to be differentiated
    sums: dict[str, Tensor]  # to be reported
    negatives: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What the micro-batches of one rank have added up, by `source/term`."""

    sums: dict[str, Tensor]
    negatives: dict[str, Tensor]


class OnePass(Generic[ModelT, BatchT]):
    """All pairs of a rank lie in one micro-batch, or there are none."""

    def __init__(
        self,
        task: Objective[ModelT, BatchT],
        batches: Sequence[MicroBatch[BatchT]],
        *,
        sizes: Sizes,
    ) -> None:
        self.task, self.batches, self.sizes = task, batches, sizes

    def terms(self, index: int, batch: BatchT, model: ModelT) -> Terms:
        """All terms of a micro-batch with their graphs; `batch` is its batch on the device."""
        source = self.batches[index].source
        computed = self.task.compute(model, source, batch)
        losses = {f"{source}/{term}": loss for term, loss in computed.losses.items()}
        negatives = {}
        for term, pairs in computed.pairs.items():
            name = f"{source}/{term}"
            contrast = _contrast(self.task, name, pairs, model, sizes=self.sizes[name])
            losses[name], negatives[name] = contrast.loss, contrast.negatives
        return Terms(losses, _detached(losses), negatives)


class TwoPasses(Generic[ModelT, BatchT]):
    """Gradient caching; the first pass is made at once."""

    def __init__(
        self,
        task: Contrastive[ModelT, BatchT],
        batches: Sequence[MicroBatch[BatchT]],
        *,
        sizes: Sizes,
        run: Run[ModelT],
        device: torch.device,
    ) -> None:
        self.task, self.batches = task, batches
        # A micro-batch meets the same dropout in both passes, and each another one.
        self.seeds = torch.randint(2**62, (len(batches),)).tolist()
        vectors: dict[str, dict[int, Pairs]] = defaultdict(dict)
        with torch.no_grad():
            for index, part in enumerate(batches):
                torch.manual_seed(self.seeds[index])
                work = partial(_pairs, task, part.source, on_device(part.batch, device))
                for term, pairs in run(work).items():
                    vectors[f"{part.source}/{term}"][index] = pairs
            self.cached: dict[str, Cached] = {
                name: run(partial(cache_contrast, task, name, pairs, sizes=sizes[name]))
                for name, pairs in vectors.items()
            }

    def terms(self, index: int, batch: BatchT, model: ModelT) -> Terms:
        """As in `OnePass`; the first micro-batch of a source reports the contrast of them all."""
        source = self.batches[index].source
        torch.manual_seed(self.seeds[index])
        computed = self.task.compute(model, source, batch)
        losses = {f"{source}/{term}": loss for term, loss in computed.losses.items()}
        sums, negatives = _detached(losses), {}
        for term, pairs in computed.pairs.items():
            name = f"{source}/{term}"
            cached = self.cached[name]
            losses[name] = cached.surrogate(index, pairs, model)
            if index == min(cached.rows):
                sums[name], negatives[name] = cached.loss, cached.negatives
        return Terms(losses, sums, negatives)


@dataclass(frozen=True, kw_only=True)
class Cached:
    """What the first pass knows of one term: its figures and its gradients."""

    loss: Float[Tensor, ""]
    negatives: Tensor
    rows: Mapping[int, tuple[Tensor, Tensor]]  # of media and of text, by micro-batch
    parameters: Mapping[str, Tensor]  # of those that the contrast itself reads, by name

    def surrogate(self, index: int, pairs: Pairs, model: nn.Module) -> Float[Tensor, ""]:
        """A sum over the pairs of a micro-batch with the gradient of the contrast."""
        media, text = self.rows[index]
        return inner(pairs.media, media) + inner(pairs.text, text) + self.at_parameters(model)

    def at_parameters(self, model: nn.Module) -> Float[Tensor, ""]:
        """The part of a micro-batch that the contrast's own parameters have in the sum."""
        total = self.loss.new_zeros(())
        for name, gradient in self.parameters.items():
            total = total + inner(model.get_parameter(name), gradient) / len(self.rows)
        return total


def _pairs(
    task: Contrastive[ModelT, BatchT], source: str, batch: BatchT, model: ModelT
) -> Mapping[str, Pairs]:
    return task.pairs(model, source, batch)


def cache_contrast(
    task: Contrastive[ModelT, Any],
    name: str,
    pairs: Mapping[int, Pairs],
    model: ModelT,
    *,
    sizes: Sequence[int],
) -> Cached:
    """Contrast the rank's pairs of all micro-batches, and differentiate."""
    parts = list(pairs.values())
    media = torch.cat([part.media for part in parts]).requires_grad_()
    text = torch.cat([part.text for part in parts]).requires_grad_()
    whole = Pairs(media=media, text=text, ids=torch.cat([part.ids for part in parts]))
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        contrast = _contrast(task, name, whole, model, sizes=sizes)
        # Not `backward`: the parallel engine must not take this for the model's backward pass.
        of_media, of_text, *others = torch.autograd.grad(
            contrast.loss, [media, text, *trained.values()], allow_unused=True
        )
    numbers = [len(part.media) for part in parts]
    pieces = zip(of_media.split(numbers), of_text.split(numbers), strict=True)
    return Cached(
        loss=contrast.loss.detach(),
        negatives=contrast.negatives,
        rows=dict(zip(pairs, pieces, strict=True)),
        parameters={
            key: gradient
            for key, gradient in zip(trained, others, strict=True)
            if gradient is not None
        },
    )


def _contrast(
    task: object, name: str, pairs: Pairs, model: nn.Module, *, sizes: Sequence[int]
) -> Contrast:
    if not isinstance(task, Contrastive):
        raise TypeError(f"{type(task).__name__} computes pairs of {name} but has no contrast()")
    term = name.split("/", 1)[1]
    return task.contrast(model, term, pairs, gather=partial(gather_rows, sizes=sizes))


def inner(values: Tensor, gradient: Tensor) -> Float[Tensor, ""]:
    """Sum of products; its gradient with respect to the values is `gradient`."""
    return (values * gradient).sum(dtype=torch.promote_types(values.dtype, torch.float32))


def _detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}
