"""The model's invariants: closed gates, isolation of images and documents, padding, gradients."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from common.errors import UserError
from tests.flamingo import tiny

I = 97  # noqa: E741 - the <image> token of the tiny configuration
FAMILIES = list(tiny.FAMILIES)
MODES = [
    (attention, backend)
    for attention in ("own", "previous")
    for backend in ("reference", "sdpa", "flex")
]


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_gates_equal_the_language_model_bitwise(family: str) -> None:
    flamingo = tiny.model(family, gates=0.0)
    plain = AutoModelForCausalLM.from_config(flamingo.config.text_config).eval()
    plain.load_state_dict(flamingo.language_model.state_dict())
    ids = torch.tensor([[1, 5, 6, 7, 8, 9], [1, 9, 8, 4, 3, 11]])
    expected = plain(ids).logits
    assert torch.equal(flamingo(ids).logits[..., :I], expected)
    items = torch.ones_like(ids)
    seeing = flamingo(ids, pixel_values=tiny.images(2, 1), media_item=items)
    assert torch.equal(seeing.logits[..., :I], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_move_the_logits_only_from_their_tag_on(family: str) -> None:
    flamingo = tiny.model(family)
    ids = torch.tensor([[1, 5, I, 7, 8, I, 10, 11]])
    pixels, other = tiny.images(1, 2), tiny.images(1, 2, seed=1)
    before = flamingo(ids, pixel_values=pixels).logits
    after = flamingo(ids, pixel_values=torch.stack([pixels[:, 0], other[:, 1]], dim=1)).logits
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


@pytest.mark.parametrize(("attention", "backend"), MODES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_later_images_and_other_documents_change_no_bit(
    attention: str, backend: str, implementation: str, dtype: torch.dtype
) -> None:
    flamingo = tiny.model(media_attention=attention, attention_backend=backend).to(dtype)
    flamingo.set_attn_implementation(implementation)
    # Two packed documents; eleven images in the first row.
    ids = torch.tensor([[I, 5] * 4 + [1, I, 6] + [I] * 6, [1, 5, I, 7, 1, 8, I, 9, I, 3, *[4] * 7]])
    documents = torch.tensor([[0] * 8 + [1] * 9, [0] * 4 + [1] * 13])
    counts = torch.tensor([11, 3])
    pixels = tiny.images(2, 11)
    base = flamingo(ids, pixel_values=pixels, num_images=counts, document_ids=documents).logits
    changed = pixels.clone()
    changed[0, 2:4] = 255 - changed[0, 2:4]  # the last two images of document 0 in row 0
    changed[1, 0] = 255 - changed[1, 0]  # the image of document 0 in row 1
    edited = ids.clone()
    edited[1, 1] = 33
    moved = flamingo(edited, pixel_values=changed, num_images=counts, document_ids=documents).logits
    assert torch.equal(moved[0, :4], base[0, :4])  # before the changed images
    assert torch.equal(moved[0, 8:], base[0, 8:])  # another document
    assert torch.equal(moved[1, 4:], base[1, 4:])
    assert not torch.equal(moved[0, 4:8], base[0, 4:8])
    assert not torch.equal(moved[1, :4], base[1, :4])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_equal_documents_alone(family: str) -> None:
    flamingo = tiny.model(family)
    first, second = [1, 5, I, 7, 8], [1, I, 9, I, 10, 11]
    documents = torch.tensor([[0] * 5 + [1] * 6])
    pixels = tiny.images(1, 3)
    packed = flamingo(
        torch.tensor([first + second]), pixel_values=pixels, document_ids=documents
    ).logits
    for ids, images, place in (
        (first, pixels[:, :1], slice(0, 5)),
        (second, pixels[:, 1:], slice(5, 11)),
    ):
        alone = flamingo(torch.tensor([ids]), pixel_values=images).logits
        torch.testing.assert_close(packed[:, place], alone, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("backend", ["reference", "sdpa", "flex"])
def test_text_bound_to_the_next_image_sees_that_image_only(backend: str) -> None:
    flamingo = tiny.model(attention_backend=backend)
    ids = torch.tensor([[1, 5, I, 7, I, 8]])
    item = torch.tensor([[1, 1, 1, 2, 2, 0]])
    pixels, other = tiny.images(1, 2), tiny.images(1, 2, seed=1)
    base = flamingo(ids, pixel_values=pixels, media_item=item).logits
    later = torch.stack([pixels[:, 0], other[:, 1]], dim=1)
    moved = flamingo(ids, pixel_values=later, media_item=item).logits
    assert torch.equal(moved[:, :3], base[:, :3])
    assert not torch.equal(moved[:, 3], base[:, 3])


@pytest.mark.parametrize("images", [1, 3])
def test_a_wrong_number_of_images_is_refused(images: int) -> None:
    with pytest.raises(UserError, match=f"row 0 of the batch: 2 <image> tags but {images} images"):
        tiny.model()(torch.tensor([[I, 5, I, 7]]), pixel_values=tiny.images(1, images))


def test_video_frames_carry_their_time_and_are_interpolated_beyond_training() -> None:
    flamingo = tiny.model()
    ids = torch.tensor([[I, 5, 6]])
    video = torch.stack([tiny.images(1, 1, seed=i) for i in range(7)], dim=2)
    forwards = flamingo(ids, pixel_values=video).logits
    backwards = flamingo(ids, pixel_values=video.flip(2)).logits
    assert not torch.allclose(forwards, backwards, atol=1e-4)


def test_only_the_bridge_gets_gradients_and_checkpointing_keeps_them() -> None:
    ids = torch.tensor([[1, I, 7, 8, I, 9]])
    grads = []
    for checkpointing in (False, True):
        flamingo = tiny.model().train()
        if checkpointing:
            flamingo.gradient_checkpointing_enable({"use_reentrant": False})
        flamingo(ids, pixel_values=tiny.images(1, 2), labels=ids, use_cache=False).loss.backward()
        assert all(p.grad is None for p in flamingo.language_model.parameters())
        assert all(p.grad is None for p in flamingo.vision_encoder.parameters())
        named = flamingo.named_parameters()
        # The time embedding belongs to videos.
        trained = {n: p for n, p in named if p.requires_grad and "time_embedding" not in n}
        assert all(p.grad is not None for p in trained.values())
        grads.append(torch.cat([p.grad.flatten() for p in trained.values()]))
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_a_frozen_bfloat16_model_with_a_float32_bridge_trains(family: str) -> None:
    flamingo = tiny.model(family).train()
    flamingo.language_model.to(torch.bfloat16)
    flamingo.vision_encoder.to(torch.bfloat16)
    ids = torch.tensor([[1, I, 7, 8]])
    logits = flamingo(ids, pixel_values=tiny.images(1, 1)).logits
    F.cross_entropy(logits[0, :-1].float(), ids[0, 1:]).backward()
    gate = flamingo.gated_blocks[0].attention_gate
    assert gate.dtype == torch.float32
    assert gate.grad is not None
    assert torch.isfinite(gate.grad).all()


def test_a_deep_copy_meets_its_own_blocks() -> None:
    flamingo = tiny.model()
    twin = copy.deepcopy(flamingo)
    ids, pixels = torch.tensor([[1, I, 7, 8]]), tiny.images(1, 1)
    before = twin(ids, pixel_values=pixels).logits
    with torch.no_grad():
        for block in flamingo.gated_blocks:
            block.attention_gate.zero_()
    assert torch.equal(twin(ids, pixel_values=pixels).logits, before)


def test_from_backbones_takes_the_parts_as_they_are() -> None:
    source = tiny.model("qwen3")
    parts = {
        "language_model": AutoModelForCausalLM.from_config(source.config.text_config),
        "vision_encoder": source.vision_encoder,
    }
    built = type(source).from_backbones(source.config, **parts).eval()
    assert built.language_model is parts["language_model"]
    assert not any(parameter.is_meta for parameter in built.parameters())
    ids = torch.tensor([[1, I, 7, 8]])
    expected = parts["language_model"](ids.clamp(max=I - 1)).logits
    assert built(ids, pixel_values=tiny.images(1, 1)).logits.shape[-1] == expected.shape[-1]
