"""The model on packed rows: who hears of whom, to the bit; what a batch without media leaves."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from common.errors import UserError
from flare.media import Encoded
from flare.model import FlareForConditionalGeneration
from tests.flare import tiny
from tests.flare.decoding import decode
from tests.flare.tiny import CLIP, EMB, IMAGE, MASK

# Document 0 speaks of an image, 1 is masked and speaks of a clip, 2 is a caption.
ROWS = [
    ([0] * 7, [1, *IMAGE, 7, 8, 9]),
    ([1] * 7, [1, 10, MASK, *CLIP, 11, MASK]),
    ([2] * 5, [1, 12, 13, 14, EMB]),
]
IDS = torch.tensor([[i for _, ids in ROWS for i in ids], [1, *CLIP, 20, *IMAGE, *range(30, 42)]])
DOCUMENTS = torch.tensor([[d for documents, _ in ROWS for d in documents], [3] * 9 + [4] * 9 + [0]])
BOTH_WAYS = torch.stack([DOCUMENTS[0] == 1, DOCUMENTS[1] == 4])
LENGTHS = torch.tensor([400, 300])


@pytest.fixture(scope="module")
def model() -> FlareForConditionalGeneration:
    return tiny.model()


def media(
    model: FlareForConditionalGeneration, *, images: torch.Tensor, clips: torch.Tensor
) -> tuple[Encoded, Encoded]:
    return model.encode_images(images), model.encode_audio(clips, LENGTHS[: len(clips)])


@torch.no_grad()
def hidden(
    model: FlareForConditionalGeneration,
    *,
    ids: torch.Tensor = IDS,
    images: torch.Tensor | None = None,
    clips: torch.Tensor | None = None,
) -> torch.Tensor:
    images, audio = media(
        model,
        images=tiny.images(2) if images is None else images,
        clips=tiny.clips(2) if clips is None else clips,
    )
    return decode(
        model,
        ids,
        images=images.tokens,
        audio=audio.tokens,
        document_ids=DOCUMENTS,
        bidirectional=BOTH_WAYS,
    )


def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Tokens of which any bit changed."""
    return (before != after).any(-1)


@pytest.mark.parametrize("place", [0, 5, 6, 8, 13, 16, 18])
def test_a_token_changes_the_future_of_its_document_or_all_of_a_bidirectional_one(
    model: FlareForConditionalGeneration, place: int
) -> None:
    changed = IDS.clone()
    changed[0, place] = 77
    expected = torch.zeros_like(BOTH_WAYS)
    expected[0] = DOCUMENTS[0] == DOCUMENTS[0, place]
    expected[0, :place] &= BOTH_WAYS[0, :place]
    assert torch.equal(moved(hidden(model), hidden(model, ids=changed)), expected)


def test_an_image_is_heard_from_its_first_slot_to_the_end_of_its_document(
    model: FlareForConditionalGeneration,
) -> None:
    other = tiny.images(2)
    other[0] = 255 - other[0]
    heard = moved(hidden(model), hidden(model, images=other))
    assert heard[0].tolist() == [False] + [True] * 6 + [False] * 12  # not by the caption
    assert not heard[1].any()


def test_a_clip_is_heard_in_both_directions_of_a_masked_document(
    model: FlareForConditionalGeneration,
) -> None:
    other = tiny.clips(2)
    other[0] = other[0].flip(0)
    heard = moved(hidden(model), hidden(model, clips=other))
    assert torch.equal(heard[0], DOCUMENTS[0] == 1)
    assert not heard[1].any()


def test_the_place_of_a_document_in_its_row_does_not_matter(
    model: FlareForConditionalGeneration,
) -> None:
    packed = hidden(model)[0, 14:]
    ids = torch.tensor([ROWS[2][1]])
    alone = decode(
        model,
        ids,
        images=None,
        audio=None,
        document_ids=torch.zeros_like(ids),
        bidirectional=torch.zeros_like(ids, dtype=torch.bool),
    )[0]
    assert_close(packed, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_forward_reads_packed_rows_as_decode_does(model: FlareForConditionalGeneration) -> None:
    output = model(
        IDS,
        pixel_values=tiny.images(2),
        input_values=tiny.clips(2),
        audio_lengths=LENGTHS,
        document_ids=DOCUMENTS,
        bidirectional=BOTH_WAYS,
        output_hidden_states=True,
    )
    assert torch.equal(output.hidden_states[-1], hidden(model))
    assert torch.equal(output.logits, model.head(hidden(model)))
    assert output.past_key_values is None


def test_what_contradicts_packing_is_refused(model: FlareForConditionalGeneration) -> None:
    ids = IDS[:, -5:]
    with pytest.raises(UserError, match="document_ids says everything about a packed row"):
        model(ids, document_ids=torch.zeros_like(ids), use_cache=True)
    with pytest.raises(UserError, match="bidirectional speaks of documents"):
        model(ids, bidirectional=torch.ones_like(ids, dtype=torch.bool))


def test_vectors_belong_to_items_and_are_not_normalised(
    model: FlareForConditionalGeneration,
) -> None:
    images, audio = media(model, images=tiny.images(2), clips=tiny.clips(2))
    assert images.tokens.shape == (2, 3, 24)
    assert audio.tokens.shape == (2, 2, 24)
    assert images.vectors.shape == audio.vectors.shape == (2, 14)
    assert model.text_vectors(torch.randn(5, 24)).shape == (5, 14)
    assert (images.vectors.norm(dim=-1) - 1).abs().min() > 0.01


def test_bytes_and_fractions_are_the_same_image(model: FlareForConditionalGeneration) -> None:
    pixels = tiny.images(2)
    fractions = model.encode_images(pixels.float() / 255)
    assert_close(fractions.tokens, model.encode_images(pixels).tokens, atol=1e-4, rtol=1e-4)


def test_silence_behind_a_clip_is_not_heard(model: FlareForConditionalGeneration) -> None:
    clips = tiny.clips(2)
    together = model.encode_audio(clips, LENGTHS)
    alone = model.encode_audio(clips[1:, :300], LENGTHS[1:])
    assert_close(together.tokens[1:], alone.tokens, atol=1e-4, rtol=1e-4)
    assert_close(together.vectors[1:], alone.vectors, atol=1e-4, rtol=1e-4)


ENCODERS = ("vision_encoder", "vision_projector", "audio_encoder", "audio_projector")


def test_a_batch_without_media_keeps_every_encoder_parameter_with_zero_gradient() -> None:
    model = tiny.model().train()
    ids = torch.randint(7, tiny.VOCAB, (2, 6))
    places = {
        "document_ids": torch.zeros_like(ids),
        "bidirectional": torch.zeros_like(ids, dtype=torch.bool),
    }
    plain = decode(model, ids, images=None, audio=None, **places)
    images, audio = media(model, images=tiny.images(0), clips=torch.zeros(0, 400))
    assert images.vectors.shape == audio.vectors.shape == (0, 14)
    assert len(images.tokens) == len(audio.tokens) == 1
    present = decode(model, ids, images=images.tokens, audio=audio.tokens, **places)
    assert torch.equal(present, plain)
    (present.square().sum() + images.vectors.sum() + audio.vectors.sum()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith((*ENCODERS, "image_vector", "audio_vector")) and parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_forward_without_media_keeps_the_encoders_in_the_graph_while_training() -> None:
    model = tiny.model()
    ids = torch.randint(7, tiny.VOCAB, (2, 6))
    evaluated = model(ids, labels=ids).loss
    trained = model.train()(ids, labels=ids).loss
    assert torch.equal(trained, evaluated)
    trained.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(ENCODERS) and parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def gradients(model: FlareForConditionalGeneration) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(
        IDS,
        pixel_values=tiny.images(2),
        input_values=tiny.clips(2),
        audio_lengths=LENGTHS,
        document_ids=DOCUMENTS,
        bidirectional=BOTH_WAYS,
        labels=IDS,
    ).loss
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_recomputation_changes_no_gradient() -> None:
    model = tiny.model().train()
    calls: list[str] = []
    watched = {
        "decoder": model.decoder.blocks[1].feed_forward,
        "projector": model.audio_projector.blocks[1].feed_forward,
        "vision": model.vision_encoder.model.blocks[0].mlp,
    }
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda *args, name=name: calls.append(name))
    straight = gradients(model)
    assert sorted(calls) == sorted(watched)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = gradients(model)
    assert sorted(calls) == sorted([*watched] * 3)
    assert recomputed.keys() == straight.keys()
    for name, gradient in straight.items():
        assert torch.equal(recomputed[name], gradient), name


def test_every_trained_parameter_learns_from_text_media_and_contrast() -> None:
    model = tiny.model().train()
    images, audio = media(model, images=tiny.images(2), clips=tiny.clips(2))
    states = decode(
        model,
        IDS,
        images=images.tokens,
        audio=audio.tokens,
        document_ids=DOCUMENTS,
        bidirectional=BOTH_WAYS,
    )
    text = model.text_vectors(states[IDS == EMB])
    cosines = images.vectors @ text.T * model.image_log_scale.exp()
    cosines = cosines + audio.vectors @ text.T * model.audio_log_scale.exp()
    (cosines.square().sum() + model.head(states).logsumexp(-1).sum()).backward()
    # Outside of training spans the frames' mask embedding only stays in the graph.
    quiet = {"audio_encoder.masked_spec_embed"}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0 or name in quiet, name


def test_the_block_after_the_one_that_is_read_is_not_trained(
    model: FlareForConditionalGeneration,
) -> None:
    unused = ("vision_encoder.model.blocks.2.", "vision_encoder.model.norm.")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(unused), name


def test_temperatures_start_where_the_papers_say() -> None:
    infonce, siglip = tiny.model(), tiny.model(contrastive="siglip")
    assert infonce.image_log_scale.tolist() == pytest.approx([math.log(1 / 0.07)])
    assert not hasattr(infonce, "image_bias")
    assert siglip.audio_log_scale.tolist() == pytest.approx([math.log(10)])
    assert siglip.image_bias.tolist() == siglip.audio_bias.tolist() == [-10.0]


def test_trained_encoders_are_taken_in_from_files(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trained, model = FlareForConditionalGeneration(tiny.config()), tiny.model()
    trained.vision_encoder.save(tmp_path / "vision")
    torch.save(trained.audio_encoder.state_dict(), tmp_path / "wavlm.pt")
    decoder = model.decoder.norm.weight.clone()
    model.load_backbones(vision=tmp_path / "vision", audio=tmp_path / "wavlm.pt")
    for part in ("vision_encoder", "audio_encoder"):
        ours, theirs = (getattr(m, part).state_dict() for m in (model, trained))
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert torch.equal(model.decoder.norm.weight, decoder)
