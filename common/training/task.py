"""What the training loop asks of a model: the protocols `Source` (data) and `Task` (the rest).

The loop knows no model and no data set. A task builds the model, names its data sources, says what
is trainable and turns a batch into *sums* of losses; the loop owns everything else: order of data,
precision, ranks, accumulation, division by counts, clipping, the optimizer, checkpoints, metrics.
A task is single-device code: it never asks for its rank, it never divides by a number of tokens,
and it never moves a batch. Implementations match by shape; nothing is inherited. What only some
tasks need is a protocol of its own: `Packs`, `Contrastive`, `Weighted`, `Constrained`,
`Prepares`, `Divisible`, `Staged`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.data.feed import Supply
from common.data.packing import PackState
from common.objectives.contrastive import Contrast
from common.objectives.weighting import Weighting
from common.parallel.sharding import Sharding
from common.training.processes import Processes

SameT = TypeVar("SameT")
# Rows of one rank -> rows of all ranks, in rank order, differentiable; the identity on one process.
# Ranks may hold different numbers of rows, also none.
Gather = Callable[[Tensor], Tensor]


@runtime_checkable
class Example(Protocol):
    """One training example, before it is put into a batch."""

    @property
    def key(self) -> str:
        """The sample's id; a digest of all keys in order is logged and proves what was read."""
        ...


@runtime_checkable
class Batch(Protocol):
    """Several examples as tensors, best a frozen dataclass."""

    @property
    def keys(self) -> list[str]:
        """The ids of the examples, in order."""
        ...


ExampleT = TypeVar("ExampleT", bound=Example)
BatchT = TypeVar("BatchT", bound=Batch)
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)
ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT_contra = TypeVar("BatchT_contra", bound=Batch, contravariant=True)
ModelT_contra = TypeVar("ModelT_contra", bound=nn.Module, contravariant=True)


@runtime_checkable
class Source(Protocol[ExampleT, BatchT_co]):
    """Training data with random access.

    Update t reads the rows t * batch_size ... (t + 1) * batch_size - 1, divided over micro-batches
    and ranks. They grow without end: the source itself maps a row to an epoch, a shuffled index and
    the seed of its augmentations. Whatever changes during training (augmentation switched off after
    some updates) is a function of `row // batch_size`, so that a resumed run sees the very same
    example. A source that also `Packs` decides itself what stands for a row.
    """

    @property
    def batch_size(self) -> int:
        """Examples of one optimizer update, over all ranks and micro-batches."""
        ...

    @property
    def weight(self) -> float:
        """Factor of this source's mean losses in the loss of the update."""
        ...

    # A row is its position, or what `pack` made of it: nobody else looks inside.
    def example(self, row: Any) -> ExampleT:
        """The example of a row: a pure function, called in any process in any order."""
        ...

    def collate(self, examples: Sequence[ExampleT]) -> BatchT_co:
        """Put examples together; the batch lies on the CPU."""
        ...


@runtime_checkable
class Packs(Protocol):
    """A source that fills the rows of an update with as many documents as fit."""

    @property
    def digest(self) -> str:
        """Of the data and their order; a run goes on with equal digests only."""
        ...

    def pack(self, update: int, state: PackState) -> tuple[Sequence[Any], PackState]:
        """What stands for each row of an update, picklable, and the state after it.

        Pure and cheap: every rank calls it for the whole update, in its main process.
        """
        ...


@runtime_checkable
class Supplied(Protocol):
    """An example that tells what was read for it."""

    @property
    def supply(self) -> Supply:
        """Documents by corpus, and the samples that had to be replaced."""
        ...


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Trainable parameters that share one decoupled weight decay."""

    name: str
    parameters: Sequence[nn.Parameter]
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Media and texts to be contrasted: row i of one belongs to row i of the other."""

    media: Float[Tensor, "p d"]
    text: Float[Tensor, "p d"]
    ids: Int[Tensor, " p"]  # equal numbers mark equal texts, which are no negatives of one another


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a forward pass gives to the loop."""

    losses: Mapping[str, Tensor] = field(default_factory=dict)  # sums, by term
    pairs: Mapping[str, Pairs] = field(default_factory=dict)  # by contrastive term


@dataclass(frozen=True, kw_only=True)
class Start:
    """What lies before a model's chain of blocks."""

    hidden: Float[Tensor, "b s d"]  # the chain's input
    media: Mapping[str, Float[Tensor, "p v"]]  # sides of pairs that are known already, by term
    ids: Mapping[str, Int[Tensor, " p"]]  # of the pairs

    def paired(self, texts: Mapping[str, Tensor]) -> dict[str, Pairs]:
        """The pairs, now that their other sides are known."""
        return {
            term: Pairs(media=media, text=texts[term], ids=self.ids[term])
            for term, media in self.media.items()
        }


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What lies behind a model's chain of blocks."""

    losses: Mapping[str, Tensor]  # sums, by term
    texts: Mapping[str, Float[Tensor, "p v"]]  # the other sides of pairs, by term


@runtime_checkable
class Objective(Protocol[ModelT_contra, BatchT_contra]):
    """From a batch to sums of losses, with the figures to divide and to judge them by."""

    def counts(self, source: str, batch: BatchT_contra) -> Mapping[str, int]:
        """Number of targets per loss term, on the CPU batch, known before the forward pass.

        The targets of a contrastive term are its pairs. Always names every term of the source.
        """
        ...

    def compute(self, model: ModelT_contra, source: str, batch: BatchT_contra) -> Computed:
        """Differentiable SUM per loss term, and the rows to be contrasted; the loop alone divides.

        Together they have the names of `counts`, always all of them: a term without targets in
        this batch is a zero, or no rows, that still hangs on the parameters.
        """
        ...

    def flops(self, model: ModelT_contra, source: str, batch: BatchT_contra) -> float:
        """Useful floating-point operations of forward and backward over this batch.

        4 N per token through N frozen parameters that gradients must cross (2 forward, 2 back),
        2 N where none cross, 6 N through trained ones; attention on top.
        """
        ...

    def tokens(self, batch: BatchT_contra) -> int:
        """Tokens of the batch, for throughput; padding is not counted."""
        ...


@runtime_checkable
class Contrastive(Objective[ModelT_contra, BatchT_contra], Protocol[ModelT_contra, BatchT_contra]):
    """A task some of whose terms contrast the rows of a whole update, over all ranks."""

    def pairs(self, model: ModelT_contra, source: str, batch: BatchT_contra) -> Mapping[str, Pairs]:
        """The pairs of `compute`, same numbers, without the rest: the first of two passes.

        Random numbers (dropout) are drawn from the same state in both passes, so `compute` must
        draw those of the pairs first.
        """
        ...

    def contrast(
        self, model: ModelT_contra, term: str, pairs: Pairs, *, gather: Gather
    ) -> Contrast:
        """Loss summed over the local pairs against the pairs of all ranks.

        May use parameters of the model that belong to no unit of sharding, such as a temperature.
        """
        ...


@runtime_checkable
class Weighted(Protocol):
    """A task whose losses are weighted against each other while it trains.

    Terms form objectives: `language/masked` and `language/causal` belong to `language`.
    """

    def weighting(self) -> Weighting | None:
        """Weights of the objectives in the loss; None weighs them all alike."""
        ...

    def factors(self, update: int) -> Mapping[str, float]:
        """Factors of terms inside their objective at an update, counted from 1; 1 if not named.

        Divided by their sum over the terms of the objective that have targets in the update.
        """
        ...


@runtime_checkable
class Constrained(Protocol[ModelT_contra]):
    """A task that keeps parameters within bounds."""

    def after_update(self, model: ModelT_contra) -> None:
        """Changes parameters in place after each optimizer step, without waiting for the device."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A task whose data a model completes before the first update."""

    def prepare(self, folder: Path, *, processes: Processes, dtype: torch.dtype) -> None:
        """Do it once for the run of this folder, where it is kept; all ranks call it together.

        dtype: in which the run computes.
        """
        ...


@runtime_checkable
class Divisible(Protocol[ModelT_contra]):
    """A task whose model is gathered unit by unit where its parameters are sharded."""

    def blocks(self, model: ModelT_contra) -> Iterable[nn.Module]:
        """The repeated parts, each of which is recomputed and compiled by itself."""
        ...

    def parallelize(self, model: ModelT_contra, sharding: Sharding) -> None:
        """Name the units of a model without memory; see `<model>/parallelize.py`.

        All ranks then run the same units in the same order, whatever their batches hold.
        """
        ...


@runtime_checkable
class TextBatch(Batch, Protocol):
    """A batch whose text goes through a pipeline without its media."""

    def __len__(self) -> int:
        """Rows."""
        ...

    def text(self: SameT) -> SameT:
        """All rows, without media."""
        ...

    def captions(self: SameT) -> SameT:
        """The last rows, at least one, on which alone the vectors of contrasted texts depend."""
        ...

    def padded(self: SameT, num_rows: int) -> SameT:
        """With rows behind that mean nothing."""
        ...


TextBatchT = TypeVar("TextBatchT", bound=TextBatch)
TextBatchT_contra = TypeVar("TextBatchT_contra", bound=TextBatch, contravariant=True)


@runtime_checkable
class Staged(
    Contrastive[ModelT_contra, TextBatchT_contra],
    Divisible[ModelT_contra],
    Protocol[ModelT_contra, TextBatchT_contra],
):
    """A task whose model has a chain of blocks that may be cut into pipeline stages.

    `compute` makes `start`, `advance` over all blocks and `finish`; `pairs` the same over the rows
    of `captions`. Nothing but `advance` may reach for the blocks.
    """

    # Where the model keeps the blocks, an `nn.ModuleList`; their parent calls one after the other.
    chain: str

    def start(self, model: ModelT_contra, source: str, batch: TextBatchT_contra) -> Start:
        """All that comes before the blocks; random numbers are drawn here and nowhere else."""
        ...

    def advance(
        self, model: ModelT_contra, blocks: Iterable[nn.Module], x: Tensor, batch: TextBatchT_contra
    ) -> Tensor:
        """Through some of the blocks, of which the model itself may hold none; x keeps its shape.

        Here and in `finish` the batch has no media.
        """
        ...

    def finish(
        self, model: ModelT_contra, source: str, batch: TextBatchT_contra, x: Tensor
    ) -> Finish:
        """All that comes after the blocks."""
        ...


@runtime_checkable
class Reports(Protocol[ModelT_contra]):
    """What a reader wants to see of a model while it trains, and what is left at the end."""

    def monitor(self, model: ModelT_contra) -> dict[str, float]:
        """Cheap figures for logging steps, e.g. {"gate/3/attention": 0.12}; group before the /."""
        ...

    def validate(self, model: ModelT_contra) -> dict[str, float]:
        """Figures on held-out data; `validation/perplexity` drives the optional early stop."""
        ...

    def samples(self, model: ModelT_contra) -> list[str]:
        """A few generations as text, prompt included, for a reader's eye; may be empty."""
        ...

    # On one rank; the other methods are called by all ranks alike.

    def export(self, model: ModelT_contra, folder: Path) -> None:
        """Write the finished model in its own public format (`save_pretrained`)."""
        ...


@runtime_checkable
class Task(Objective[ModelT, BatchT], Reports[ModelT], Protocol[ModelT, BatchT]):
    """A model, its data, its objective and its reports, ready to be trained.

    The model handed to the methods is always the bare model of `build_model`, never a wrapper of
    a parallel engine, so any of its methods may be called. `flops`, `parameter_groups` and
    `after_update` may meet shards of parameters: shapes and elementwise changes are as ever.
    """

    def build_model(self) -> ModelT:
        """The model, on the CPU, what is frozen frozen (`requires_grad=False`).

        The loop seeds all random number generators first. A frozen part that must stay in
        evaluation mode (dropout, batch norm) overrides its own `train()`.
        Under `torch.device("meta")` it is built without memory for its weights: for `--dry-run`,
        and on the ranks that hold shards only.
        """
        ...

    # The examples' type differs between the sources of one task and matters to none but the source.
    def sources(self) -> Mapping[str, Source[Any, BatchT]]:
        """The data sets of one update by name; every update reads from all of them."""
        ...

    def parameter_groups(self, model: ModelT) -> list[ParameterGroup]:
        """Every trainable parameter in exactly one group; frozen ones in none."""
        ...
