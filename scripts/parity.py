"""Compares our encoders, layer by layer, with the libraries that wrote their weights.

    python scripts/parity.py           # small ones, seconds
    python scripts/parity.py --full    # WavLM-Large and ViT-H/14, minutes and some GB of memory

Random weights are saved by transformers and by timm and loaded here by path, float32. WavLM hears
a batch of two clips, one padded; only valid frames are compared. Values grow from layer to layer,
and float32's rounding with them: a difference is judged beside the largest value of its row.
"""

import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel
from transformers.utils import logging

from common.data.document import SAMPLE_RATE_HZ
from common.encoders.vision import VisionEncoder
from common.encoders.wavlm import WavLM, load_wavlm

BAR = 2e-6  # of the largest value: 17 roundings of float32
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class AudioCase:
    """Sizes of a WavLM, the same for both libraries, and the clips it hears."""

    name: str
    dim: int
    num_layers: int
    num_heads: int
    feed_forward_dim: int
    conv_dim: int
    position_kernel: int
    seconds: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class VisionCase:
    """Sizes of a timm transformer."""

    name: str
    image_size: int
    options: dict[str, int] = field(default_factory=dict)


VIT = "vit_huge_patch14_clip_224"
SMALL_AUDIO = AudioCase(
    name="small WavLM",
    dim=64,
    num_layers=4,
    num_heads=4,
    feed_forward_dim=160,
    conv_dim=32,
    position_kernel=16,
    seconds=(6.0, 3.7),
)
LARGE_AUDIO = AudioCase(
    name="WavLM-Large",
    dim=1024,
    num_layers=24,
    num_heads=16,
    feed_forward_dim=4096,
    conv_dim=512,
    position_kernel=128,
    seconds=(30.0, 17.3),
)
SMALL_VISION = VisionCase(
    name="small ViT",
    image_size=32,
    options={"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 4},
)
LARGE_VISION = VisionCase(name="ViT-H/14", image_size=224)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both tables; exit status 1 if a difference is above the bar, 2 for a mistake."""
    chosen = list(sys.argv[1:] if arguments is None else arguments)
    if chosen not in ([], ["--full"]):
        print("error: the only option is --full", file=sys.stderr)
        return 2
    logging.disable_progress_bar()
    # transformers mixes two types of mask.
    warnings.filterwarnings("ignore", message="Support for mismatched")
    worst = 0.0
    with torch.no_grad():
        for case in (LARGE_AUDIO, LARGE_VISION) if chosen else (SMALL_AUDIO, SMALL_VISION):
            compare = compare_wavlm if isinstance(case, AudioCase) else compare_vision
            with tempfile.TemporaryDirectory() as folder:
                worst = max(worst, compare(case, Path(folder)))  # type: ignore[arg-type]  # fits
    print(f"largest relative difference {worst:.1e}, allowed {BAR:.0e}")
    return int(worst > BAR)


def compare_wavlm(case: AudioCase, folder: Path) -> float:
    """Our WavLM beside transformers' on one padded batch; gives the largest relative difference."""
    generator = torch.Generator().manual_seed(0)
    clips = [
        0.1 * torch.randn(round(seconds * SAMPLE_RATE_HZ), generator=generator)
        for seconds in case.seconds
    ]
    expected, config = _heard_by_transformers(case, clips, folder)
    model = _our_wavlm(case, config).eval()
    load_wavlm(model, folder)
    waveforms = nn.utils.rnn.pad_sequence(clips, batch_first=True)
    lengths = torch.tensor([len(clip) for clip in clips])
    states = model.hidden_states(waveforms, lengths)
    valid = torch.arange(states[0].shape[1]) < model.num_frames(lengths)[:, None]
    actual = [*states, model.encoder.layer_norm(states[-1])]
    names = ["input", *(f"layer {number}" for number in range(case.num_layers)), "end, normed"]
    frames = " and ".join(str(count) for count in valid.sum(dim=1).tolist())
    return _report(
        f"{case.name}, {_count(model):,} parameters, {frames} frames",
        names,
        [state[valid] for state in actual],
        [state[valid] for state in expected],
    )


def _heard_by_transformers(
    case: AudioCase, clips: list[Tensor], folder: Path
) -> tuple[list[Tensor], Any]:
    """Hidden states and the last one normed; the weights are left in the folder."""
    config = WavLMConfig(
        hidden_size=case.dim,
        num_hidden_layers=case.num_layers,
        num_attention_heads=case.num_heads,
        intermediate_size=case.feed_forward_dim,
        conv_dim=[case.conv_dim] * 7,
        num_conv_pos_embeddings=case.position_kernel,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    torch.manual_seed(0)
    model = _stirred(WavLMModel(config)).eval()
    model.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    inputs = extractor(
        [clip.numpy() for clip in clips],
        sampling_rate=SAMPLE_RATE_HZ,
        padding=True,
        return_tensors="pt",
    )
    outputs = model(**inputs, output_hidden_states=True)
    return [*outputs.hidden_states, outputs.last_hidden_state], config


def _our_wavlm(case: AudioCase, config: Any) -> WavLM:
    return WavLM(
        dim=case.dim,
        num_layers=case.num_layers,
        num_heads=case.num_heads,
        feed_forward_dim=case.feed_forward_dim,
        conv_dims=config.conv_dim,
        conv_kernels=config.conv_kernel,
        conv_strides=config.conv_stride,
        position_kernel=case.position_kernel,
        position_groups=config.num_conv_pos_embedding_groups,
        num_buckets=config.num_buckets,
        max_distance=config.max_bucket_distance,
        layer_norm_eps=config.layer_norm_eps,
        layer_drop=0.0,
        mask_time_share=0.0,
        mask_time_length=config.mask_time_length,
        backend="auto",
    )


def compare_vision(case: VisionCase, folder: Path) -> float:
    """Our vision encoder beside timm's model, whose pixels are normalised by hand."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, case.image_size, case.image_size)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    file = folder / "timm.safetensors"
    expected = _seen_by_timm(case, images, file)
    encoder = VisionEncoder(
        name=VIT,
        image_size=case.image_size,
        model_options=case.options,
        mean=MEAN,
        std=STD,
        weights=file,
    ).eval()
    actual: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda block, inputs, output: actual.append(output[:, 1:]))
        for block in encoder.model.blocks
    ]
    end = encoder(images)
    for hook in hooks:
        hook.remove()
    encoder.layer = -2
    return _report(
        f"{case.name}, {_count(encoder):,} parameters, {encoder.num_tokens} tokens",
        [*(f"layer {number}" for number in range(len(actual))), "end, normed", "as layer=-2"],
        [*actual, end, encoder(images)],
        [*expected, expected[-3]],
    )


def _seen_by_timm(case: VisionCase, images: Tensor, file: Path) -> list[Tensor]:
    """Outputs of all blocks and the last one normed; the weights are left in the file."""
    torch.manual_seed(0)
    model = _stirred(timm.create_model(VIT, img_size=case.image_size, **case.options)).eval()
    save_file(model.state_dict(), file)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    end, blocks = model.forward_intermediates((images / 255 - mean) / std, output_fmt="NLC")
    return [*blocks, end[:, model.num_prefix_tokens :]]


def _stirred(model: Any) -> Any:
    """Moves what starts as ones or zeros: norms, biases, gates."""
    for parameter in model.parameters():
        if (parameter == parameter.flatten()[0]).all():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _report(title: str, names: list[str], actual: list[Tensor], expected: list[Tensor]) -> float:
    """Prints a table of the outputs; gives the largest relative difference."""
    table = Table("output", "largest difference", "largest value", "relative")
    worst = 0.0
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        difference, size = (x.abs().max().item() for x in (ours - theirs, theirs))
        table.add_row(name, f"{difference:.1e}", f"{size:.2f}", f"{difference / size:.1e}")
        worst = max(worst, difference / size)
    console = Console(width=100)
    console.print(title)
    console.print(table)
    return worst


if __name__ == "__main__":
    sys.exit(main())
