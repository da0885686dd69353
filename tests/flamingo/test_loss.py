"""The loss without logits equals that of all logits, whatever a family does to its logits."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flamingo import FlamingoForConditionalGeneration
from flamingo.model import FlamingoOutput
from tests.flamingo import tiny

I = 97  # noqa: E741 - the <image> token of the tiny configuration
IDS = torch.tensor([[1, I, 7, 8, I, 9, 98], [I, 5, 98, 1, I, 6, 3]])
# Without those of a few tokens and of images; 98 ends a chunk, a token of ours.
LABELS = IDS.masked_fill((IDS == I) | (IDS == 7) | (IDS == 6), -100)
PLAIN = tiny.FAMILIES | {
    "gptj": {"n_embd": 24, "n_inner": 40, "n_layer": 5, "n_head": 3, "rotary_dim": 4},  # a bias
}
# What stands behind their output layers: a factor, a divisor, a cap.
GOING_ON = {
    "cohere": tiny.SHAPE | tiny.HEADS | {"logit_scale": 0.3},
    "granite": tiny.SHAPE | tiny.HEADS | {"logits_scaling": 3.0},
    "gemma2": tiny.SHAPE | tiny.HEADS | {"head_dim": 8, "final_logit_softcapping": 2.0},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [*PLAIN, *GOING_ON])
def test_the_loss_without_logits_equals_that_of_all_logits(
    family: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (PLAIN | GOING_ON)[family] | {"tie_word_embeddings": tied}
    monkeypatch.setitem(tiny.FAMILIES, family, shape)
    flamingo = tiny.model(family).double().train()
    head = flamingo.get_output_embeddings()
    assert (head.weight is flamingo.get_input_embeddings().weight) == tied
    if head.bias is not None:
        nn.init.normal_(head.bias)
    full = called(flamingo, skip_logits=False)
    # With logits the loss is one of single precision.
    exactly = F.cross_entropy(full.logits[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten())
    torch.testing.assert_close(full.loss.double(), exactly, rtol=1e-6, atol=0.0)
    expected = exactly if family in PLAIN else full.loss
    wanted = gradients(flamingo, expected)
    assert wanted["new_outputs.weight"].any()
    for _ in range(2):  # what a family does to its logits is found out once
        outputs = called(flamingo, skip_logits=True)
        assert outputs.logits.shape[1] == (0 if family in PLAIN else LABELS.shape[1])
        torch.testing.assert_close(outputs.loss, expected, rtol=1e-9, atol=0.0)
        for name, gradient in gradients(flamingo, outputs.loss).items():
            limit = 1e-9 * float(wanted[name].abs().max())
            torch.testing.assert_close(gradient, wanted[name], rtol=0.0, atol=limit)


@pytest.mark.parametrize("change", ["adapter", "bias", "offloaded", "new rows"])
def test_a_layer_that_is_more_than_a_matrix_keeps_its_logits(change: str) -> None:
    flamingo = tiny.model("llama").double().train()
    head = flamingo.get_output_embeddings()
    if change == "adapter":
        head.__class__ = Doubling
    elif change == "bias":
        head.bias = nn.Parameter(torch.randn(I, dtype=torch.float64))
    elif change == "offloaded":
        head.forward = lambda x: F.linear(x, 2 * head.weight)
    else:
        flamingo.new_outputs.__class__ = Doubling
    outputs, expected = (called(flamingo, skip_logits=skip) for skip in (True, False))
    assert torch.equal(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.loss, expected.loss)


class Doubling(nn.Linear):
    """As an adapter's layer, it gives something else than its weight says."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def called(flamingo: FlamingoForConditionalGeneration, *, skip_logits: bool) -> FlamingoOutput:
    """Two rows of two images each."""
    pixels = tiny.images(2, 2)
    return flamingo(IDS, pixel_values=pixels, labels=LABELS, skip_logits=skip_logits)


def gradients(flamingo: FlamingoForConditionalGeneration, loss: Tensor) -> dict[str, Tensor]:
    """Of all that is trained; without videos there is no time."""
    trained = {
        name: p
        for name, p in flamingo.named_parameters()
        if p.requires_grad and name != "resampler.time_embedding"
    }
    found = torch.autograd.grad(loss, list(trained.values()))
    return dict(zip(trained, found, strict=True))
