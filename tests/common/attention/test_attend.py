"""Every backend equals the readable reference, in values and gradients, under every mask."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.attention import attend as attend_module
from common.attention import biased
from common.attention.attend import Backend, attend
from common.attention.bias import GatedRelativeBias
from common.attention.masks import Mask, causal, media_span, same_document, valid_keys
from common.attention.reference import reference_attention

B, S, N, H, G, E = 2, 5, 7, 4, 2, 6
FAST_BACKENDS: list[Backend] = ["sdpa", "flex"]
ALL_BACKENDS = get_args(Backend)

DOCUMENTS = same_document(
    torch.tensor([[1, 1, 2, 2, 9], [3, 4, 4, 4, 4]]),
    torch.tensor([[1, 1, 1, 2, 2, 2, 2], [3, 3, 4, 4, 5, 5, 5]]),
)
PADDING = valid_keys(torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 1, 1]]).bool())
SPAN = media_span(
    torch.tensor([[0, 1, 1, 2, 2], [1, 1, 3, 3, 1]]),
    torch.tensor([[0, 1, 2, 2, 3], [0, 2, 3, 3, 3]]),
    tokens_per_item=2,
)
MASKS: dict[str, Mask | None] = {
    "no mask": None,
    "causal": causal(),
    "causal after two cached keys": causal(offset=2),
    "causal before the first key": causal(offset=-2),
    "documents": DOCUMENTS,
    "padding": PADDING,
    "media": SPAN,
    "packed and causal": causal() & DOCUMENTS,
    "all": causal(offset=2) & DOCUMENTS & PADDING,
    "nothing at all": valid_keys(torch.zeros(B, N, dtype=torch.bool)),
}


def inputs(dtype: torch.dtype, *, key_heads: int = G) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, H, S, E), (B, key_heads, N, E), (B, key_heads, N, E)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def values_and_gradients(
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Mask | None,
    backend: Backend,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    attended = attend(*tensors, mask=mask, backend=backend, scale=scale)
    weights = torch.linspace(-1, 1, attended.numel(), dtype=attended.dtype).view_as(attended)
    return attended, *torch.autograd.grad(attended, tensors, weights)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=["fp32", "fp64"]
)
def test_a_backend_equals_the_reference_in_values_and_gradients(
    backend: Backend, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    actual = values_and_gradients(inputs(dtype), MASKS[name], backend)
    expected = values_and_gradients(inputs(dtype), MASKS[name], "reference")
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MASKS)
def test_chunks_of_queries_with_the_keys_they_see_equal_the_reference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five queries: two whole chunks and one with a single query.
    monkeypatch.setattr(attend_module, "CHUNK_QUERIES", 2)
    actual = values_and_gradients(inputs(torch.float64), MASKS[name], "sdpa")
    expected = values_and_gradients(inputs(torch.float64), MASKS[name], "reference")
    assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_of_packed_documents_only_neighbouring_keys_are_read() -> None:
    length = 4 * attend_module.CHUNK_QUERIES
    q, k, v = (torch.randn(1, 1, length, 8, requires_grad=True) for _ in range(3))
    document = torch.arange(length)[None] // 100
    with LargestTensor() as largest:
        attend(q, k, v, mask=same_document(document, document)).sum().backward()
    # One chunk's mask over all keys; its scores are of a third of them.
    assert largest.numbers == attend_module.CHUNK_QUERIES * length


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_under_autocast_a_mask_works_and_the_precision_is_that_of_the_inputs(
    backend: Backend,
) -> None:
    tensors = [x.detach() for x in inputs(torch.bfloat16)]
    bias = GatedRelativeBias(torch.ones(H, 2 * N - 1), torch.ones(B, H, S))
    expected = [attend(*tensors, mask=DOCUMENTS, bias=b, backend=backend) for b in (None, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = [attend(*tensors, mask=DOCUMENTS, bias=b, backend=backend) for b in (None, bias)]
    assert actual[0].dtype == torch.bfloat16
    assert_close(actual, expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_grouped_queries_equal_repeated_keys_and_a_scale_is_honoured(backend: Backend) -> None:
    q, k, v = inputs(torch.float64)
    repeated = (k.repeat_interleave(H // G, dim=1), v.repeat_interleave(H // G, dim=1))
    allowed = DOCUMENTS.dense(batch=B, num_queries=S, num_keys=N, device="cpu")
    expected = reference_attention(q, *repeated, allowed=allowed, scale=0.3)
    actual = attend(q, k, v, mask=DOCUMENTS, scale=0.3, backend=backend)
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_row_that_sees_nothing_is_exactly_zero_forward_and_backward(
    backend: Backend, dtype: torch.dtype
) -> None:
    tensors = inputs(dtype)
    attended, grad_q, grad_k, grad_v = values_and_gradients(tensors, DOCUMENTS, backend)
    assert attended[0, :, 4].count_nonzero() == 0
    assert grad_q[0, :, 4].count_nonzero() == 0
    # Keys of document 5 are seen by no query.
    assert grad_k[1, :, 4:].count_nonzero() == 0
    assert grad_v[1, :, 4:].count_nonzero() == 0
    assert attended[0, :, :4].count_nonzero() == H * 4 * E
    assert all(gradient.isfinite().all() for gradient in (grad_q, grad_k, grad_v))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("length", [7, 600], ids=["short", "longer than a kernel's block"])
def test_what_a_query_may_not_see_changes_no_bit_of_it(
    backend: Backend, dtype: torch.dtype, length: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, length, 16, generator=generator).to(dtype) for _ in range(3))
    here, elsewhere = slice(0, length // 2), slice(length // 2, None)
    document = torch.arange(length)[None] // 4
    mask = causal() & same_document(document, document)
    before = attend(q, k, v, mask=mask, backend=backend)[:, :, here]
    k[:, :, elsewhere] = -30 * k[:, :, elsewhere]
    v[:, :, elsewhere] = 100 * v[:, :, elsewhere]
    q[:, :, elsewhere] = 5 * q[:, :, elsewhere]
    # The first document that reaches over the border is left out.
    end = length // 2 // 4 * 4
    after = attend(q, k, v, mask=mask, backend=backend)[:, :, here]
    assert torch.equal(before[:, :, :end], after[:, :, :end])


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_no_keys_at_all_give_zero_and_keep_the_graph(backend: Backend) -> None:
    q, _, _ = inputs(torch.float32)
    k = torch.randn(B, G, 0, E, requires_grad=True)
    attended = attend(q, k, k, backend=backend)
    assert attended.shape == q.shape
    assert attended.count_nonzero() == 0
    (gradient,) = torch.autograd.grad(attended.sum(), q)
    assert gradient.count_nonzero() == 0


def test_unequal_groups_of_heads_are_refused() -> None:
    q, _, _ = inputs(torch.float32)
    k = torch.randn(B, 3, N, E)
    with pytest.raises(ValueError, match="4 query heads are not a multiple of 3 key heads"):
        attend(q, k, k)


def biased_inputs(dtype: torch.dtype, *, key_heads: int = G) -> tuple[Tensor, ...]:
    """q, k, v, and the table and the gate of a bias."""
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(H, 2 * N - 1, generator=generator, dtype=dtype).requires_grad_()
    gate = torch.randn(B, H, S, generator=generator, dtype=dtype).requires_grad_()
    return *inputs(dtype, key_heads=key_heads), table, gate


def biased_values_and_gradients(
    mask: Mask | None, backend: Backend, *, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    q, k, v, table, gate = tensors = biased_inputs(dtype)
    bias = GatedRelativeBias(table, gate)
    attended = attend(q, k, v, mask=mask, bias=bias, backend=backend)
    weights = torch.linspace(-1, 1, attended.numel(), dtype=attended.dtype).view_as(attended)
    return attended, *torch.autograd.grad(attended, tensors, weights)


@pytest.mark.parametrize("backend", [*FAST_BACKENDS, "sdpa of an accelerator"])
@pytest.mark.parametrize("name", MASKS)
def test_a_biased_backend_equals_the_reference_in_values_and_gradients(
    backend: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five queries: two whole chunks and one with a single query.
    monkeypatch.setattr(biased, "BIASED_QUERIES", 2)
    if backend not in FAST_BACKENDS:
        backend = "sdpa"
        monkeypatch.setattr(biased, "may_look", lambda x: False)
    actual = biased_values_and_gradients(MASKS[name], backend, dtype=torch.float64)
    expected = biased_values_and_gradients(MASKS[name], "reference", dtype=torch.float64)
    assert_close(actual, expected, rtol=1e-12, atol=1e-13)
    assert all(gradient.isfinite().all() for gradient in actual)


def test_the_reference_adds_the_bias_to_the_scores() -> None:
    q, k, v, table, gate = biased_inputs(torch.float64, key_heads=H)
    bias = GatedRelativeBias(table, gate)
    scores = 0.3 * q @ k.mT + bias.dense()
    actual = attend(q, k, v, bias=bias, scale=0.3, backend="reference")
    assert_close(actual, scores.softmax(dim=-1) @ v)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_a_bias_without_gradient_leaves_the_other_gradients_as_they_are(backend: Backend) -> None:
    q, k, v, table, gate = biased_inputs(torch.float64)
    expected = biased_values_and_gradients(PADDING, backend, dtype=torch.float64)[1:4]
    bias = GatedRelativeBias(table.detach(), gate.detach())
    attended = attend(q, k, v, mask=PADDING, bias=bias, backend=backend)
    weights = torch.linspace(-1, 1, attended.numel(), dtype=attended.dtype).view_as(attended)
    assert_close(torch.autograd.grad(attended, (q, k, v), weights), expected)


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers of any tensor that an operation returns."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        results = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(results) if isinstance(x, Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return results


@pytest.mark.parametrize("looks", [True, False], ids=["CPU", "accelerator"])
@pytest.mark.parametrize("with_gradient", [False, True], ids=["frozen bias", "trained bias"])
def test_all_scores_of_a_biased_call_never_exist_at_once_and_nothing_of_them_is_kept(
    with_gradient: bool, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(biased, "may_look", lambda x: looks)
    b, h, n, e = 2, 3, 700, 8
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(b, h, n, e, generator=generator).requires_grad_() for _ in range(3))
    table = torch.randn(h, 2 * n - 1, generator=generator, requires_grad=with_gradient)
    gate = torch.randn(b, h, n, generator=generator, requires_grad=with_gradient)
    valid = torch.arange(n) < torch.tensor([[n], [n - 90]])
    kept: list[int] = []

    def note(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        bias = GatedRelativeBias(table, gate)
        attended = attend(q, k, v, mask=valid_keys(valid), bias=bias, backend="sdpa")
        attended.square().sum().backward()
    assert largest.numbers <= b * h * n * biased.BIASED_QUERIES < b * h * n * n
    assert max(kept) <= b * h * n * e
    assert (table.grad is not None) == with_gradient


def test_a_bias_for_another_number_of_keys_is_refused() -> None:
    q, k, v, _, gate = biased_inputs(torch.float32)
    with pytest.raises(ValueError, match="for 8 keys, not for 7"):
        attend(q, k, v, bias=GatedRelativeBias(torch.zeros(H, 15), gate))
