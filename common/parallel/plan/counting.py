"""Work and memory of a piece of a model, counted by running it on the meta device.

The real modules run forward and backward on tensors without data. Matrix products are counted by
torch's own counter, bytes by `storages.py`. Attention is the fused kernel that keeps no scores; its
backward pass counts as four products, not the five of the kernel, as in the usual definition of
useful work. RMSNorm is the fused kernel of a GPU, which keeps its input, or on request the chain of
operations of a CPU.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import (
    FlopCounterMode,
    addmm_flop,
    conv_flop_count,
    sdpa_flop_count,
)

from common.attention.attend import LARGE_MASK_ENTRIES
from common.parallel.plan.storages import LiveStorages
from common.parallel.recompute import Recompute, selective_contexts

Kernels = Literal["gpu", "cpu"]
_aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Call:
    """A forward pass whose inputs lie ready; `weights` are the parameters it uses."""

    function: Callable[..., object]
    arguments: tuple[object, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    weights: tuple[nn.Parameter, ...] = ()

    @property
    def input_bytes(self) -> int:
        """Of the first input that gets a gradient: what the piece before hands over."""
        tensors = tree_leaves((self.arguments, dict(self.options)))
        crossed = [x for x in tensors if isinstance(x, Tensor) and x.requires_grad]
        return crossed[0].untyped_storage().nbytes() if crossed else 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one call. Bytes do not include weights and their gradients."""

    forward_flops: int
    backward_flops: int = 0  # without what is repeated
    repeated_flops: int = 0  # of the forward pass, in the backward pass
    kept_bytes: int = 0  # between forward and backward, the input included
    peak_bytes: int = 0  # the most at any moment of both passes

    @property
    def useful_flops(self) -> int:
        """What the mathematics asks for."""
        return self.forward_flops + self.backward_flops

    @property
    def hardware_flops(self) -> int:
        """What the device does."""
        return self.useful_flops + self.repeated_flops


def count(prepare: Callable[[], Call], recompute: Recompute, kernels: Kernels) -> Cost:
    """Run a call forward, and backward where a gradient passes, and count."""
    cost = _run(prepare(), "none", kernels)
    if recompute == "none" or not cost.backward_flops:
        return cost
    again = _run(prepare(), recompute, kernels)
    return Cost(
        forward_flops=cost.forward_flops,
        backward_flops=cost.backward_flops,
        repeated_flops=again.backward_flops - cost.backward_flops,
        kept_bytes=again.kept_bytes,
        peak_bytes=again.peak_bytes,
    )


def captured(run: Callable[[], object], module: nn.Module) -> Call:
    """The call of a module inside a run, with inputs of its own and the gradients they had."""
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def keep(_: nn.Module, given: tuple[object, ...], options: dict[str, object]) -> None:
        calls.append((given, options))

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    given, options = tree_map(fresh, calls[-1])
    return Call(
        function=module,
        arguments=given,
        options=options,
        weights=tuple(module.parameters()),
    )


def fresh(value: Any) -> Any:
    """A tensor cut from what made it, still wanting a gradient if it did; all else as it is."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return value.detach().requires_grad_(value.requires_grad)
    return value


def _run(call: Call, recompute: Recompute, kernels: Kernels) -> Cost:
    function: Callable[..., object] = call.function
    if recompute != "none":
        contexts = {"context_fn": selective_contexts} if recompute == "selective" else {}
        function = partial(checkpoint, call.function, use_reentrant=False, **contexts)
    counter = FlopCounterMode(display=False, custom_mapping=FLOPS)
    living = LiveStorages("activations")
    with _dropped_gradients(call.weights), living, counter, FusedKernels(kernels):
        outputs = tree_leaves(function(*call.arguments, **call.options))
        outputs = [x for x in outputs if isinstance(x, Tensor) and x.requires_grad]
        forward = counter.get_total_flops()
        edges = [get_gradient_edge(x) for x in outputs]
        gradients = [torch.empty_like(x) for x in outputs]
        own = sum(x.untyped_storage().nbytes() for x in gradients)
        del outputs
        kept = living.bytes - own + call.input_bytes
        if edges:
            torch.autograd.backward(edges, gradients)
    return Cost(
        forward_flops=forward,
        backward_flops=counter.get_total_flops() - forward,
        kept_bytes=kept if edges else 0,
        peak_bytes=living.peak + call.input_bytes,
    )


class FusedKernels(TorchFunctionMode):
    """Where tensors hold nothing, torch would take the attention that writes all scores."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(
        self, function: Any, types: Any, given: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if given and _is_empty(given[0]):
            if function is F.scaled_dot_product_attention:
                return self._attend(*given, **options)
            if function is F.rms_norm and self.kernels == "gpu":
                return _FusedNorm.apply(given[0], options["weight"])
        return function(*given, **options)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        mask = options.get("attn_mask")
        if mask is not None and mask.dtype == torch.bool:
            # A kernel adds its mask; beyond this size `attend` takes FlexAttention, without one.
            is_large = math.prod(mask.shape) > LARGE_MASK_ENTRIES
            mask = None if is_large else torch.empty_like(mask, dtype=q.dtype)
        if mask is not None and mask.requires_grad:
            return _aten._scaled_dot_product_efficient_attention(q, k, v, mask, True)[0]
        attended, _ = _aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, options.get("is_causal", False), attn_mask=mask
        )
        return attended


def _is_empty(value: object) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, Tensor) and value.is_meta)


class _FusedNorm(torch.autograd.Function):
    """Keeps the input, its gain and one number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _attention_backward_flops(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return 2 * sdpa_flop_count(q, k, v)


def _in_place_flops(total: Any, left: Any, right: Any, **__: Any) -> int:
    return int(addmm_flop(total, left, right))


def _convolution_backward_flops(gradient: Any, x: Any, weight: Any, *rest: Any, **__: Any) -> int:
    """Torch counts the weights' gradient of a grouped convolution as if it had one group."""
    *_, transposed, _, _, wanted = rest  # of input, weights and bias
    forward = conv_flop_count(list(x), list(weight), list(gradient), transposed)
    return int(sum(wanted[:2]) * forward)


FLOPS: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    _aten._scaled_dot_product_efficient_attention_backward: _attention_backward_flops,
    _aten.convolution_backward: _convolution_backward_flops,
    _aten.addmm_: _in_place_flops,
}


@contextmanager
def _dropped_gradients(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients of weights go as soon as they are there: they are counted elsewhere."""

    def drop(weight: Tensor) -> None:
        weight.grad = None

    trained = [weight for weight in weights if weight.requires_grad]
    handles = [weight.register_post_accumulate_grad_hook(drop) for weight in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
