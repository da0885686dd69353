"""On the path of a GPU nothing of a training step is as large as tokens times tokens.

Shown on the meta device with stand-ins for FlexAttention and for what makes its block mask: these
two are torch's, and hold nothing of that size when compiled. All the rest is the real step.
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.attention import attend, masks
from common.data.transfer import on_device
from flare.corpora import SourceConfig
from flare.recipes import flare_tiny
from flare.task import FlareTask
from tests.feeds import packed_examples

TOKENS = 1024
BLOCKS = create_block_mask(lambda b, h, q, k: k <= q, None, None, 128, 128, device="cpu")
META = torch.device("meta")


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers of any tensor that an operation returns."""

    numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        results = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(results) if isinstance(x, Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return results


def flex_without_scores(
    q: Tensor, k: Tensor, v: Tensor, *, block_mask: object, **options: Any
) -> tuple[Tensor, AuxOutput]:
    assert block_mask in {BLOCKS, None}
    mixed = q + (k + v).mean(dim=(1, 2), keepdim=True)
    return mixed, AuxOutput(lse=mixed.sum(dim=-1))


@pytest.mark.parametrize("backend", ["flex", "sdpa"])
def test_no_tensor_of_a_training_step_has_tokens_times_tokens_numbers(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The meta device knows no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    built: list[object] = []
    monkeypatch.setattr(masks, "create_block_mask", lambda *a, **o: built.append(o) or BLOCKS)
    monkeypatch.setattr(attend, "_compiled_flex", lambda: flex_without_scores)
    config = replace(
        flare_tiny().task, max_tokens=TOKENS, sources=(SourceConfig(kind="prose", weight=1.0),)
    )
    task = FlareTask(config, steps=10)
    (name, source), *_ = task.sources().items()
    batch = on_device(source.collate(packed_examples(source, 2)), META)
    assert batch.input_ids.shape == (2, TOKENS)
    with META:
        model = task.build_model().train()
    model.config.attention_backend = backend
    with LargestTensor() as largest:
        computed = task.compute(model, name, batch)
        torch.stack(list(computed.losses.values())).sum().backward()
    if backend == "flex":
        assert largest.numbers < TOKENS**2
        assert len(built) == 1  # for all layers
    else:
        assert largest.numbers >= TOKENS**2  # a dense mask would have been noticed
