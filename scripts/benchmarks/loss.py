"""The language-model loss of 2048 positions of width 512 over a vocabulary of 65,536, forward and
backward, float32, two threads where there is no GPU: by chunks, and through all logits at once.

"Trained" with the gradient of the output layer's weight, ours with z-loss; "frozen" as Flamingo's,
whose layer is extended by the rows of two new tokens. On a GPU by liger-kernel, too, if installed.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from common.objectives.language import linear_next_token_loss
from scripts.benchmarks.memory import peak_bytes
from scripts.benchmarks.timing import Row, Run, alternating, ratio

POSITIONS, VOCABULARY, WIDTH = 2048, 65_536, 512
MASKED_POSITIONS = 307  # 15 %, as masked language modeling selects them
NEW_TOKENS = 2
Z_LOSS = 1e-4
THREADS = 2
REPEATS = 7
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIGER = "liger_kernel"


def figures() -> list[Row]:
    """A row for every way; memory is the peak beyond the weight's gradient."""
    torch.set_num_threads(THREADS)
    rows = _compared(_trained(), held=4 * VOCABULARY * WIDTH) + _compared(_frozen(), held=0)
    if not (find_spec(LIGER) and DEVICE == "cuda"):
        missing: Row = dict.fromkeys(rows[0], "-")
        rows.append({**missing, "way": "liger-kernel: not installed or no GPU"})
    return rows


def by_liger(hidden: Tensor, weight: Tensor, targets: Tensor, *, z_loss: float) -> Tensor:
    """The same as ours by liger-kernel's kernels."""
    library = import_module("liger_kernel.transformers.functional")
    found = library.liger_fused_linear_cross_entropy(
        hidden, weight, targets, reduction="sum", lse_square_scale=z_loss
    )
    loss: Tensor = found[0] if isinstance(found, tuple) else found
    return loss


Way = tuple[str, int, Run]  # name, positions


def _trained() -> list[Way]:
    hidden, weight, targets = _inputs()

    def run(loss: Callable[[Tensor, Tensor], Tensor], positions: int = POSITIONS) -> Run:
        return lambda: _differentiated(
            loss(hidden[:positions], targets[:positions]), (hidden, weight)
        )

    def by_chunks(rows: Tensor, wanted: Tensor) -> Tensor:
        return linear_next_token_loss(rows, weight, wanted, z_loss=Z_LOSS)

    def all_logits(rows: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(rows @ weight.T, wanted, reduction="sum")

    def with_z_loss(rows: Tensor, wanted: Tensor) -> Tensor:
        squares = (rows @ weight.T).logsumexp(dim=1).square()
        return all_logits(rows, wanted) + Z_LOSS * squares.sum()

    def liger(rows: Tensor, wanted: Tensor) -> Tensor:
        return by_liger(rows, weight, wanted, z_loss=Z_LOSS)

    _check_equal(run(by_chunks), run(with_z_loss))
    ways = [
        ("all logits", POSITIONS, run(all_logits)),
        ("by chunks", POSITIONS, run(by_chunks)),
        ("by chunks, 15 %", MASKED_POSITIONS, run(by_chunks, MASKED_POSITIONS)),
    ]
    if find_spec(LIGER) and DEVICE == "cuda":
        _check_equal(run(liger), run(with_z_loss))
        ways.append(("liger-kernel", POSITIONS, run(liger)))
    return ways


def _frozen() -> list[Way]:
    hidden, weight, targets = _inputs()
    weight = weight.detach()
    new_rows = weight[:NEW_TOKENS].clone().requires_grad_()

    def by_chunks() -> tuple[Tensor, ...]:
        value = linear_next_token_loss(hidden, weight, targets, z_loss=0.0, new_rows=new_rows)
        return _differentiated(value, (hidden, new_rows))

    def all_logits() -> tuple[Tensor, ...]:
        logits = torch.cat([hidden @ weight.T, hidden @ new_rows.T], dim=1)
        value = F.cross_entropy(logits, targets, reduction="sum")
        del logits
        return _differentiated(value, (hidden, new_rows))

    _check_equal(by_chunks, all_logits)
    return [
        ("all logits, frozen", POSITIONS, all_logits),
        ("by chunks, frozen", POSITIONS, by_chunks),
    ]


def _compared(ways: list[Way], *, held: int) -> list[Row]:
    """Each beside the first one; `held` bytes are the same for all."""
    memory = [peak_bytes(run) - held for _, _, run in ways]
    times = alternating([run for _, _, run in ways], repeats=REPEATS)
    return [
        {
            "way": name,
            "positions": positions,
            "memory, MB": round(memory[i] / 1e6, 1),
            "memory ratio": ratio(memory[i], memory[0]),
            "time, s": round(times[i], 2),
            "time ratio": ratio(times[i], times[0]),
            "wanted": "<= 0.1, <= 1.1" if name.startswith("by chunks") else "",
        }
        for i, (name, positions, _) in enumerate(ways)
    ]


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).mul_(WIDTH**-0.5)
    targets = torch.randint(VOCABULARY, (POSITIONS,), generator=generator).to(DEVICE)
    return hidden.to(DEVICE).requires_grad_(), weight.to(DEVICE).requires_grad_(), targets


def _differentiated(value: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value.detach(), *torch.autograd.grad(value, inputs))


def _check_equal(ours: Run, theirs: Run) -> None:
    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
