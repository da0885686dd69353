"""WavLM is transformers' WavLMModel of the large type in every layer, and loads its files."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForCTC, WavLMModel

from common.encoders import wavlm
from common.encoders.wavlm import WavLM, _random_spans, load_wavlm
from common.errors import UserError

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
SIZES = {
    "dim": 40,
    "num_layers": 3,
    "num_heads": 5,
    "feed_forward_dim": 56,
    "conv_dims": (12, 12, 12, 12, 12, 14, 16),
    "conv_kernels": KERNELS,
    "conv_strides": STRIDES,
    "position_kernel": 6,
    "position_groups": 4,
    "num_buckets": 20,
    "max_distance": 18,
    "layer_norm_eps": 1e-5,
    "layer_drop": 0.0,
    "mask_time_share": 0.0,
    "mask_time_length": 4,
    "backend": "auto",
}
LARGE = {
    **SIZES,
    "dim": 1024,
    "num_layers": 24,
    "num_heads": 16,
    "feed_forward_dim": 4096,
    "conv_dims": (512,) * 7,
    "position_kernel": 128,
    "position_groups": 16,
    "num_buckets": 320,
    "max_distance": 800,
}
LENGTHS = (16_000, 9_123)
CONFIG = {
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 56,
    "conv_dim": SIZES["conv_dims"],
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 20,
    "max_bucket_distance": 18,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "vocab_size": 9,
}


def ours(**changes: object) -> WavLM:
    torch.manual_seed(1)
    return WavLM(**{**SIZES, **changes}).eval()


def theirs(kind: type = WavLMModel, **changes: object):
    torch.manual_seed(0)
    model = kind(WavLMConfig(**{**CONFIG, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases, gates and norms do something too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def loaded(model: WavLMModel, folder: Path, **changes: object) -> WavLM:
    model.save_pretrained(folder)
    copied = ours(**changes)
    load_wavlm(copied, folder)
    return copied


def clips(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [0.3 * torch.randn(length, generator=generator) + 0.1 for length in lengths]


def padded(waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    """With noise behind the clips, which nobody may hear."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    rows = [torch.cat([x, torch.full((int(lengths.max()) - len(x),), 7.0)]) for x in waveforms]
    return torch.stack(rows), lengths


def heard_by_transformers(waveforms: list[Tensor], *, mask: bool) -> dict[str, Tensor]:
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=mask)
    arrays = [waveform.numpy() for waveform in waveforms]
    return dict(extractor(arrays, sampling_rate=16_000, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("backend", ["reference", "sdpa", "flex"])
@pytest.mark.parametrize("lengths", [LENGTHS, (16_000, 16_000)], ids=["padded", "not padded"])
def test_every_layer_equals_transformers(tmp_path: Path, backend: str, lengths: tuple[int, ...]):
    original, waveforms = theirs(), clips(lengths)
    model = loaded(original, tmp_path, backend=backend)
    inputs = heard_by_transformers(waveforms, mask=lengths == LENGTHS)
    with torch.no_grad():
        expected = original(**inputs, output_hidden_states=True)
        states = model.hidden_states(*padded(waveforms))
        last, valid = model(*padded(waveforms))
    assert valid.sum(dim=1).tolist() == [49, 28 if lengths == LENGTHS else 49]
    assert len(states) == len(expected.hidden_states) == 4
    for actual, wanted in zip(
        [*states, last], [*expected.hidden_states, expected.last_hidden_state], strict=True
    ):
        assert_close(actual[valid], wanted[valid], rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [LENGTHS, (16_000, 16_000)], ids=["padded", "not padded"])
def test_in_double_precision_values_and_gradients_equal_those_of_transformers(
    tmp_path: Path, lengths: tuple[int, ...]
):
    original, waveforms = theirs(), clips(lengths)
    model = loaded(original, tmp_path).double()
    inputs = heard_by_transformers(waveforms, mask=lengths == LENGTHS)
    waves, counts = padded(waveforms)
    last, valid = model(waves.double(), counts)
    # transformers normalises in single precision; both read the same numbers here.
    extractor_sees = torch.where(
        torch.arange(waves.shape[1]) < counts[:, None], _normalised(waves.double(), counts), 0.0
    )
    inputs["input_values"] = extractor_sees
    expected = original.double()(**inputs).last_hidden_state
    assert_close(last[valid], expected[valid], rtol=0, atol=1e-12)
    weights = torch.linspace(-1, 1, last[valid].numel(), dtype=torch.float64).view_as(last[valid])
    (last[valid] * weights).sum().backward()
    (expected[valid] * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    wanted = {name: parameter.grad for name, parameter in original.named_parameters()}
    assert gradients.pop("masked_spec_embed") is wanted.pop("masked_spec_embed") is None
    assert_close(gradients, wanted, rtol=1e-9, atol=1e-9)


def _normalised(waves: Tensor, counts: Tensor) -> Tensor:
    rows = []
    for wave, count in zip(waves, counts.tolist(), strict=True):
        heard = wave[:count]
        rows.append((wave - heard.mean()) / (heard.var(correction=0) + 1e-7).sqrt())
    return torch.stack(rows)


def test_a_padded_clip_equals_the_clip_alone_whatever_stands_behind_it():
    model, (_, short) = ours(), clips()
    together, valid = model(*padded(clips()))
    alone, all_valid = model(short[None], torch.tensor([len(short)]))
    assert all_valid.all()
    assert_close(together[1][valid[1]], alone[0], rtol=0, atol=1e-5)


def test_frames_heard_in_pieces_equal_those_of_the_whole_clip(monkeypatch: pytest.MonkeyPatch):
    model, batch = ours(), padded(clips())
    whole, _ = model(*batch)  # with gradients, at once
    monkeypatch.setattr(wavlm, "PIECE_FRAMES", 10)  # of 49
    with torch.no_grad():
        pieces, valid = model(*batch)
    assert whole.requires_grad
    assert_close(pieces[valid], whole[valid], rtol=0, atol=1e-5)


def test_loudness_and_offset_of_a_recording_carry_nothing():
    model, (waves, lengths) = ours(), padded(clips())
    plain, valid = model(waves, lengths)
    changed, _ = model(0.2 * waves - 0.4, lengths)
    assert_close(plain[valid], changed[valid], rtol=0, atol=1e-3)


def test_silence_and_clips_without_a_whole_frame_give_finite_frames():
    waves, lengths = torch.zeros(3, 1500), torch.tensor([1500, 399, 0])
    frames, valid = ours()(waves, lengths)
    assert frames.isfinite().all()
    assert valid.sum(dim=1).tolist() == [4, 0, 0]


def test_frames_of_numbers_and_of_tensors_of_samples_agree():
    model, samples = ours(), [0, 399, 400, 719, 720, 16_000, 160_000, 480_000]
    frames = [0, 0, 1, 1, 2, 49, 499, 1499]
    assert [model.num_frames(count) for count in samples] == frames
    assert model.num_frames(torch.tensor(samples)).tolist() == frames


def test_a_batch_too_short_for_a_frame_is_refused():
    with pytest.raises(UserError, match="399 samples are shorter than the 400"):
        ours()(torch.zeros(1, 399), torch.tensor([399]))


def test_wavlm_large_has_its_number_of_parameters():
    with torch.device("meta"):
        model = WavLM(**LARGE)
    assert sum(parameter.numel() for parameter in model.parameters()) == 315_453_120
    assert all(parameter.ndim > 0 for parameter in model.parameters())


def test_a_layer_that_is_dropped_gets_zero_gradients_and_no_parameter_goes_without():
    model = ours(layer_drop=1.0).train()
    last, valid = model(*padded(clips()))
    shallow = copy.deepcopy(model)
    shallow.encoder.layers = shallow.encoder.layers[:1]
    assert torch.equal(last, shallow(*padded(clips()))[0])
    last[valid].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert model.encoder.layers[1].feed_forward.output_dense.weight.grad.count_nonzero() == 0
    assert model.encoder.layers[0].feed_forward.output_dense.weight.grad.count_nonzero() > 0


def test_layers_are_dropped_and_frames_hidden_only_while_training():
    quiet, model = ours(), ours(layer_drop=0.5, mask_time_share=0.5)
    assert torch.equal(model(*padded(clips()))[0], quiet(*padded(clips()))[0])
    quiet.train()
    assert torch.equal(model(*padded(clips()))[0], quiet(*padded(clips()))[0])
    model.train()
    last, valid = model(*padded(clips()))
    last[valid].square().sum().backward()
    assert model.masked_spec_embed.grad.count_nonzero() == model.dim


def test_hidden_frames_come_in_whole_spans_within_the_clip_and_in_the_asked_share():
    torch.manual_seed(0)
    num_frames = torch.tensor([200, 57, 3]).repeat(300)
    valid = torch.arange(200) < num_frames[:, None]
    hidden = _random_spans(valid, share=0.1, length=4)
    assert not (hidden & ~valid).any()
    assert not hidden[2::3].any()  # shorter than one span
    edges = torch.nn.functional.pad(hidden, (1, 1)).int().diff(dim=1)
    assert (edges.eq(-1).nonzero()[:, 1] - edges.eq(1).nonzero()[:, 1]).min() == 4
    # Spans overlap: 1 - (1 - 4/197) ** 5 = 0.097 of 200 frames, and about as much of 57.
    assert hidden[0::3].float().mean().item() == pytest.approx(0.097, abs=0.005)
    assert hidden[1::3, :57].float().mean().item() == pytest.approx(0.097, abs=0.01)


def with_old_spelling(state: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = {"parametrizations.weight.original0": "weight_g"}
    parts["parametrizations.weight.original1"] = "weight_v"
    renamed = {}
    for key, value in state.items():
        for new, old in parts.items():
            key = key.replace(new, old)  # noqa: PLW2901 - the point of the loop
        renamed[key] = value
    assert sum(key.endswith(("weight_g", "weight_v")) for key in renamed) == 2
    return renamed


@pytest.mark.parametrize("shape", ["bin", "old bin", "with a head", "in parts"])
def test_files_of_transformers_load_by_path(tmp_path: Path, shape: str):
    original = theirs(WavLMForCTC) if shape == "with a head" else theirs()
    inner = original.wavlm if shape == "with a head" else original
    source = tmp_path
    if "bin" in shape:
        source = tmp_path / "pytorch_model.bin"
        state = inner.state_dict()
        torch.save(with_old_spelling(state) if shape == "old bin" else state, source)
    else:
        original.save_pretrained(tmp_path, max_shard_size="20KB" if shape == "in parts" else "1GB")
        assert (tmp_path / "model.safetensors").is_file() == (shape != "in parts")
    model = ours()
    load_wavlm(model, source)
    state = model.state_dict()
    assert state.keys() == inner.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in inner.state_dict().items())


def test_the_base_type_is_refused_with_and_without_its_description(tmp_path: Path):
    base = theirs(feat_extract_norm="group", do_stable_layer_norm=False)
    base.save_pretrained(tmp_path)
    bare = tmp_path / "elsewhere" / "base.safetensors"
    bare.parent.mkdir()
    save_file(base.state_dict(), bare)
    for source in (tmp_path, bare):
        with pytest.raises(UserError, match="base type") as error:
            load_wavlm(ours(), source)
        assert "\n" not in str(error.value)
    # Norms after the layers have the same names as before them.
    theirs(do_stable_layer_norm=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="base type"):
        load_wavlm(ours(), tmp_path)


def test_what_does_not_fit_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"max_bucket_distance=18 instead of 19"):
        loaded(theirs(), tmp_path, max_distance=19)
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(UserError, match=r"no WavLM weights in .*nowhere"):
        load_wavlm(ours(), tmp_path / "nowhere")
    state = theirs().state_dict()
    state["stranger"] = state.pop("masked_spec_embed")
    state["encoder.layer_norm.bias"] = torch.zeros(3)
    file = tmp_path / "nowhere" / "wrong.safetensors"
    save_file(state, file)
    with pytest.raises(UserError) as error:
        load_wavlm(ours(), file)
    for part in ("missing: masked_spec_embed", "unexpected: stranger", "layer_norm.bias (3,)"):
        assert part in str(error.value)
