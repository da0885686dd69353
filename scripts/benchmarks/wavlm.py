"""WavLM-Large beside transformers' own, the same random weights in both, float32: one attention
layer with its bias, made from the bucket table as in the model, the whole encoder, and a batch of
recordings of mixed lengths, which ours hears in groups and transformers padded to the longest."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import WavLMConfig, WavLMModel
from transformers.models.wavlm import modeling_wavlm

from common.attention.masks import valid_keys
from common.data.document import SAMPLE_RATE_HZ
from common.data.transfer import on_device
from common.encoders.wavlm import WavLM
from common.encoders.wavlm_layers import RelativePositions, WavLMAttention
from flare.media import grouped
from scripts.benchmarks.memory import peak_bytes
from scripts.benchmarks.timing import Row, Run, alternating, ratio

DIM, HEADS, BUCKETS, MAX_DISTANCE = 1024, 16, 320, 800
LAYERS, FEED_FORWARD, CONV_DIM = 24, 4096, 512
FRAMES = (500, 1000, 1499)  # 10, 20 and 30 seconds
SECONDS = 30
REPEATS, ENCODER_REPEATS = 7, 3
BATCH_SECONDS, BATCH_LAYERS = (2, 3, 4, 4, 5, 6, 9, 12), 4  # as uneven as clips of 5 to 30 s
BAR = 2e-6  # of the largest value, as in scripts/parity.py
Outputs = tuple[Tensor, ...]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def figures() -> list[Row]:
    """A row for every length of the layer, without and with gradients, and one for the encoder."""
    # transformers mixes two types of mask.
    warnings.filterwarnings("ignore", message="Support for mismatched")
    rows = [_layer(frames, trained=trained) for trained in (False, True) for frames in FRAMES]
    return [*rows, _encoder(), *(_batch(groups) for groups in (1, 2))]


def _layer(num_frames: int, *, trained: bool) -> Row:
    torch.manual_seed(0)
    theirs = modeling_wavlm.WavLMAttention(
        DIM, HEADS, num_buckets=BUCKETS, max_distance=MAX_DISTANCE
    )
    positions = RelativePositions(num_buckets=BUCKETS, num_heads=HEADS, max_distance=MAX_DISTANCE)
    ours = WavLMAttention(dim=DIM, num_heads=HEADS, positions=positions, backend="auto")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, num_frames, DIM, requires_grad=trained).to(DEVICE)
    mask = valid_keys(torch.ones(1, num_frames, dtype=torch.bool, device=DEVICE))
    ours.to(DEVICE), theirs.to(DEVICE)

    def backward(out: Tensor, module: torch.nn.Module) -> Outputs:
        if not trained:
            return (out,)
        wanted = [x, *(weight for _, weight in sorted(module.named_parameters()))]
        return out, *torch.autograd.grad(out, wanted, x.detach())

    def run_ours() -> Outputs:
        with torch.set_grad_enabled(trained):
            return backward(ours(x, None, mask=mask)[0], ours)

    def run_theirs() -> Outputs:
        with torch.set_grad_enabled(trained):
            return backward(theirs(x)[0], theirs)

    what = "layer, forward and backward" if trained else "layer, forward"
    bars = ("<= 1.0", "<= 0.5") if trained else ("<= 0.6", "<= 0.125")
    if num_frames < FRAMES[-1]:
        bars = ("", "")
    return _row(what, num_frames, run_ours, run_theirs, repeats=REPEATS, bars=bars)


def _encoder() -> Row:
    ours, theirs = _encoders(LAYERS)
    waveform = torch.randn(1, SECONDS * SAMPLE_RATE_HZ, device=DEVICE)
    # Ours normalises inside; of normalised samples that changes nothing.
    waveform = (waveform - waveform.mean()) / waveform.var(correction=0).sqrt()
    lengths = torch.tensor([waveform.shape[1]], device=DEVICE)

    @torch.no_grad()
    def run_ours() -> Outputs:
        return (ours(waveform, lengths)[0],)

    @torch.no_grad()
    def run_theirs() -> Outputs:
        return (theirs(waveform).last_hidden_state,)

    num_frames, bars = ours.num_frames(waveform.shape[1]), ("<= 0.75", "<= 0.333")
    repeats = ENCODER_REPEATS
    return _row("encoder, forward", num_frames, run_ours, run_theirs, repeats=repeats, bars=bars)


def _batch(groups: int) -> Row:
    """Frames are those of the longest clip; outputs are compared where they are no padding."""
    ours, theirs = _encoders(BATCH_LAYERS)
    clips = [torch.randn(seconds * SAMPLE_RATE_HZ) for seconds in BATCH_SECONDS]
    clips = [(clip - clip.mean()) / clip.var(correction=0).sqrt() for clip in clips]
    batch = on_device(grouped(clips, groups=groups, least=1), torch.device(DEVICE))
    padded = on_device(grouped(clips, groups=1, least=1), torch.device(DEVICE))
    (waveforms,), (lengths,) = padded.waveforms, padded.lengths
    is_sample = (torch.arange(waveforms.shape[1], device=DEVICE) < lengths[:, None]).long()
    num_frames = ours.num_frames(lengths).tolist()

    @torch.no_grad()
    def run_ours() -> Outputs:
        heard = [ours(*group)[0] for group in zip(batch.waveforms, batch.lengths, strict=True)]
        clips = [clip for group in heard for clip in group]
        return tuple(clip[:n] for clip, n in zip(clips, num_frames, strict=True))

    @torch.no_grad()
    def run_theirs() -> Outputs:
        states = theirs(waveforms, attention_mask=is_sample).last_hidden_state
        return tuple(clip[:n] for clip, n in zip(states, num_frames, strict=True))

    shortest, *_, longest = BATCH_SECONDS
    what = f"{len(clips)} clips of {shortest} to {longest} s, {groups} groups, forward"
    bars, repeats = ("", ""), ENCODER_REPEATS
    return _row(what, max(num_frames), run_ours, run_theirs, repeats=repeats, bars=bars)


def _encoders(num_layers: int) -> tuple[WavLM, WavLMModel]:
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=DIM,
        num_hidden_layers=num_layers,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        conv_dim=[CONV_DIM] * 7,
        num_buckets=BUCKETS,
        max_bucket_distance=MAX_DISTANCE,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    theirs = WavLMModel(config).eval().to(DEVICE)
    ours = _ours(config).eval().to(DEVICE)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def _ours(config: WavLMConfig) -> WavLM:
    return WavLM(
        dim=DIM,
        num_layers=config.num_hidden_layers,
        num_heads=HEADS,
        feed_forward_dim=FEED_FORWARD,
        conv_dims=config.conv_dim,
        conv_kernels=config.conv_kernel,
        conv_strides=config.conv_stride,
        position_kernel=config.num_conv_pos_embeddings,
        position_groups=config.num_conv_pos_embedding_groups,
        num_buckets=BUCKETS,
        max_distance=MAX_DISTANCE,
        layer_norm_eps=config.layer_norm_eps,
        layer_drop=0.0,
        mask_time_share=0.0,
        mask_time_length=config.mask_time_length,
        backend="auto",
    )


def _row(
    what: str,
    frames: int,
    ours: Callable[[], Outputs],
    theirs: Callable[[], Outputs],
    *,
    repeats: int,
    bars: tuple[str, str],
) -> Row:
    outputs: list[Outputs] = []

    def kept(run: Callable[[], Outputs]) -> Run:
        return lambda: outputs.append(run())

    memory = [peak_bytes(kept(run)) for run in (ours, theirs)]
    # Some gradients are 0 but for rounding: that of the keys' offset.
    largest = max(expected.abs().max() for expected in outputs[1])
    for actual, expected in zip(*outputs, strict=True):
        assert (actual - expected).abs().max() <= BAR * largest, what
    outputs.clear()
    times = alternating([ours, theirs], repeats=repeats)
    return {
        "what": what,
        "frames": frames,
        "ours, s": round(times[0], 2),
        "theirs, s": round(times[1], 2),
        "time ratio": ratio(*times),
        "wanted": bars[0],
        "ours, MB": round(memory[0] / 1e6),
        "theirs, MB": round(memory[1] / 1e6),
        "memory ratio": ratio(*memory),
        "wanted ": bars[1],
    }
