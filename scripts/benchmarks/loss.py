"""The language-model loss of 2048 positions of width 512 over a vocabulary of 65,536, forward and
backward, float32, two threads: by chunks with z-loss, and through all logits at once without."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.objectives.language import linear_next_token_loss
from scripts.benchmarks.memory import peak_bytes
from scripts.benchmarks.timing import Row, Run, alternating, ratio

POSITIONS, VOCABULARY, WIDTH = 2048, 65_536, 512
MASKED_POSITIONS = 307  # 15 %, as masked language modeling selects them
Z_LOSS = 1e-4
THREADS = 2
REPEATS = 7


def figures() -> list[Row]:
    """A row for every way; memory is the peak beyond the weight's gradient."""
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).mul_(WIDTH**-0.5).requires_grad_()
    targets = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)

    def by_chunks(positions: int = POSITIONS) -> tuple[Tensor, ...]:
        rows, wanted = hidden[:positions], targets[:positions]
        value = linear_next_token_loss(rows, weight, wanted, z_loss=Z_LOSS)
        return (value.detach(), *torch.autograd.grad(value, (hidden, weight)))

    def all_logits(*, with_z_loss: bool = False) -> tuple[Tensor, ...]:
        logits = hidden @ weight.T
        value = F.cross_entropy(logits, targets, reduction="sum")
        if with_z_loss:
            value = value + Z_LOSS * logits.logsumexp(dim=1).square().sum()
        del logits
        return (value.detach(), *torch.autograd.grad(value, (hidden, weight)))

    for ours, theirs in zip(by_chunks(), all_logits(with_z_loss=True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ways: list[tuple[str, int, Run]] = [
        ("all logits", POSITIONS, all_logits),
        ("by chunks", POSITIONS, by_chunks),
        ("by chunks, 15 %", MASKED_POSITIONS, lambda: by_chunks(MASKED_POSITIONS)),
    ]
    memory = [peak_bytes(run) - 4 * weight.numel() for _, _, run in ways]
    times = alternating([run for _, _, run in ways], repeats=REPEATS)
    return [
        {
            "way": name,
            "positions": positions,
            "memory, MB": round(memory[i] / 1e6, 1),
            "memory ratio": ratio(memory[i], memory[0]),
            "time, s": round(times[i], 2),
            "time ratio": ratio(times[i], times[0]),
            "wanted": "" if i == 0 else "<= 0.1, <= 1.1",
        }
        for i, (name, positions, _) in enumerate(ways)
    ]
