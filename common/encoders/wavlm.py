"""WavLM of the large type (Chen et al., 2022): 16 kHz waveforms to one vector per 20 ms.

The numbers and names of transformers' WavLMModel with feat_extract_norm="layer" and
do_stable_layer_norm=True, on the shared attention: no probabilities of frames times frames are
kept. Waveforms are normalised inside, over their valid samples. The base type is not built.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from common.attention.attend import Backend
from common.attention.masks import valid_keys
from common.encoders.wavlm_layers import (
    ConvLayer,
    FeatureProjection,
    PositionEmbedding,
    RelativePositions,
    WavLMAttention,
    WavLMEncoderLayer,
)
from common.encoders.weights import load_exactly, parts_in, read_weights
from common.errors import UserError
from common.json_files import read_json_object

VARIANCE_FLOOR = 1e-7  # of Wav2Vec2FeatureExtractor, with which the checkpoints were trained
# Of the convolutions at once, without gradients: the first one holds 64 vectors per frame.
PIECE_FRAMES = 250
Samples = TypeVar("Samples", Tensor, int)


class WavLM(nn.Module):
    """Clips, padded behind, to frames and which of them are valid.

    While training, `layer_drop` is the probability that a layer is passed by, and
    `mask_time_share` the share of frames hidden in spans of `mask_time_length` (SpecAugment along
    time); 0 does neither. `max_distance` is in frames.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        feed_forward_dim: int,
        conv_dims: Sequence[int],
        conv_kernels: Sequence[int],
        conv_strides: Sequence[int],
        position_kernel: int,
        position_groups: int,
        num_buckets: int,
        max_distance: int,
        layer_norm_eps: float,
        layer_drop: float,
        mask_time_share: float,
        mask_time_length: int,
        backend: Backend,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.conv_kernels, self.conv_strides = tuple(conv_kernels), tuple(conv_strides)
        self.max_distance = max_distance
        self.layer_norm_eps = layer_norm_eps
        self.mask_time_share = mask_time_share
        self.mask_time_length = mask_time_length
        self.feature_extractor = _FeatureExtractor(
            dims=conv_dims, kernels=conv_kernels, strides=conv_strides
        )
        self.feature_projection = FeatureProjection(
            in_dim=conv_dims[-1], dim=dim, norm_eps=layer_norm_eps
        )
        self.masked_spec_embed = nn.Parameter(torch.rand(dim))
        positions = RelativePositions(
            num_buckets=num_buckets, num_heads=num_heads, max_distance=max_distance
        )
        layers = (
            WavLMEncoderLayer(
                attention=WavLMAttention(
                    dim=dim,
                    num_heads=num_heads,
                    positions=positions if number == 0 else None,
                    backend=backend,
                ),
                dim=dim,
                feed_forward_dim=feed_forward_dim,
                norm_eps=layer_norm_eps,
            )
            for number in range(num_layers)
        )
        self.encoder = _Encoder(
            layers,
            position_embedding=PositionEmbedding(
                dim=dim, kernel=position_kernel, groups=position_groups
            ),
            norm=nn.LayerNorm(dim, eps=layer_norm_eps),
            layer_drop=layer_drop,
        )

    def num_frames(self, samples: Samples) -> Samples:
        """Frames of a clip of so many samples: 49 of one second; 0 below 25 ms."""
        frames = samples
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames.clamp(min=0) if isinstance(frames, Tensor) else max(frames, 0)

    def forward(
        self, waveforms: Float[Tensor, "m t"], lengths: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m n d"], Bool[Tensor, "m n"]]:
        """Frames after the last norm; `lengths` in samples. Invalid frames hold no meaning."""
        x, valid = self._frames(waveforms, lengths)
        return self.encoder(x, valid), valid

    def hidden_states(
        self, waveforms: Float[Tensor, "m t"], lengths: Int[Tensor, " m"]
    ) -> list[Float[Tensor, "m n d"]]:
        """What enters the first layer and what leaves each one, the last without the last norm."""
        return list(self.encoder.states(*self._frames(waveforms, lengths)))

    def _frames(
        self, waveforms: Float[Tensor, "m t"], lengths: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m n d"], Bool[Tensor, "m n"]]:
        if self.num_frames(waveforms.shape[1]) == 0:
            raise UserError(
                f"{waveforms.shape[1]} samples are shorter than the {self.shortest_clip} of the "
                "first frame; give longer clips or pad them behind"
            )
        waveforms = _normalise(waveforms, lengths).to(self.masked_spec_embed.dtype)
        x = self.feature_projection(self.feature_extractor(waveforms))
        valid = _before(self.num_frames(lengths), x.shape[1])
        if self.training:
            hidden = _random_spans(valid, share=self.mask_time_share, length=self.mask_time_length)
            # Also without spans: data parallelism waits for a gradient of every parameter.
            x = torch.where(hidden[..., None], self.masked_spec_embed.to(x.dtype), x)
        return torch.where(valid[..., None], x, 0.0), valid

    @property
    def shortest_clip(self) -> int:
        """Samples under the first frame: 400, which are 25 ms."""
        return _reach(self.conv_kernels, self.conv_strides)


class _FeatureExtractor(nn.Module):
    def __init__(
        self, *, dims: Sequence[int], kernels: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        in_dims = (1, *dims[:-1])
        self.conv_layers = nn.ModuleList(
            ConvLayer(in_dim=in_dim, out_dim=out_dim, kernel=kernel, stride=stride)
            for in_dim, out_dim, kernel, stride in zip(in_dims, dims, kernels, strides, strict=True)
        )

    def forward(self, waveforms: Float[Tensor, "m t"]) -> Float[Tensor, "m n c"]:
        """A frame hears its own samples alone: without gradients, some frames at a time."""
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters()):
            return self._heard(waveforms)
        hop, reach = math.prod(self.strides), _reach(self.kernels, self.strides)
        num_frames = (waveforms.shape[1] - reach) // hop + 1
        pieces = [
            self._heard(waveforms[:, start * hop : (start + PIECE_FRAMES - 1) * hop + reach])
            for start in range(0, num_frames, PIECE_FRAMES)
        ]
        return torch.cat(pieces, dim=1)

    def _heard(self, waveforms: Float[Tensor, "m t"]) -> Float[Tensor, "m n c"]:
        x = rearrange(waveforms, "m t -> m 1 t")
        for layer in self.conv_layers:
            x = layer(x)
        return rearrange(x, "m c n -> m n c")


class _Encoder(nn.Module):
    def __init__(
        self,
        layers: Iterator[WavLMEncoderLayer],
        *,
        position_embedding: PositionEmbedding,
        norm: nn.LayerNorm,
        layer_drop: float,
    ) -> None:
        super().__init__()
        self.layer_drop = layer_drop
        self.pos_conv_embed = position_embedding
        self.layers = nn.ModuleList(layers)
        self.layer_norm = norm

    def forward(
        self, x: Float[Tensor, "m n d"], valid: Bool[Tensor, "m n"]
    ) -> Float[Tensor, "m n d"]:
        for state in self.states(x, valid):
            x = state
        return self.layer_norm(x)

    def states(self, x: Tensor, valid: Tensor) -> Iterator[Tensor]:
        """What enters the first layer, then what leaves each layer."""
        mask = valid_keys(valid)
        table = None
        x = x + self.pos_conv_embed(x)
        yield x
        for number, layer in enumerate(self.layers):
            passed, (x, table) = x, layer(x, table, mask=mask)
            # The first layer makes the table. A layer that is dropped has run all the same:
            # sharded parameters are gathered by all ranks or by none.
            if self.training and self.layer_drop > 0 and number > 0:
                dropped = torch.rand((), device=x.device) < self.layer_drop
                x = torch.where(dropped, passed, x)
            yield x


def _reach(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples under one frame of convolutions on top of each other."""
    samples = 1
    for kernel, stride in zip(kernels[::-1], strides[::-1], strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def _before(counts: Int[Tensor, " m"], size: int) -> Bool[Tensor, "m size"]:
    """True in the first `counts` places of each row."""
    return torch.arange(size, device=counts.device) < counts[:, None]


def _normalise(waveforms: Float[Tensor, "m t"], lengths: Int[Tensor, " m"]) -> Float[Tensor, "m t"]:
    """Mean 0 and variance 1 over the valid samples of each clip; 0 behind them."""
    inside = _before(lengths, waveforms.shape[1])
    counts = lengths.clamp(min=1)[:, None]
    x = torch.where(inside, waveforms.to(torch.promote_types(waveforms.dtype, torch.float32)), 0.0)
    x = torch.where(inside, x - x.sum(dim=1, keepdim=True) / counts, 0.0)
    variance = x.square().sum(dim=1, keepdim=True) / counts
    return x / (variance + VARIANCE_FLOOR).sqrt()


def _random_spans(valid: Bool[Tensor, "m n"], *, share: float, length: int) -> Bool[Tensor, "m n"]:
    """Hides about `share` of each row's valid frames in whole spans, which may overlap."""
    if share == 0:
        return torch.zeros_like(valid)
    num_frames = valid.sum(dim=1, keepdim=True)
    places = torch.arange(valid.shape[1], device=valid.device)
    # Rounding up as often as the fraction says keeps the mean of the share.
    luck = torch.rand(len(valid), 1, device=valid.device)
    num_spans = (share * num_frames / length + luck).long()
    scores = torch.rand(valid.shape, device=valid.device)
    scores = torch.where(places + length <= num_frames, scores, 2.0)
    ranks = scores.argsort(dim=1).argsort(dim=1)
    starts = (ranks < num_spans) & (scores < 2.0)
    spans = F.max_pool1d(F.pad(starts.float()[:, None], (length - 1, 0)), length, stride=1)
    return spans[:, 0] > 0


def load_wavlm(model: WavLM, source: Path) -> None:
    """Fills the model from a folder of transformers' `save_pretrained` or from one weights file.

    Loading is strict. Weights of a model with a task's head are taken without the head.
    """
    folder = source if source.is_dir() else source.parent
    if (folder / "config.json").is_file():
        _check_config(model, read_json_object(folder / "config.json"), source=source)
    state: dict[str, Tensor] = {}
    for file in _weight_files(source):
        state.update(read_weights(file, kind="WavLM"))
    inside = {key.removeprefix("wavlm."): state[key] for key in state if key.startswith("wavlm.")}
    state = {_today(key): value for key, value in (inside or state).items()}
    norms = {key for key in state if "conv_layers.1.layer_norm" in key}
    if "feature_extractor.conv_layers.0.layer_norm.weight" in state and not norms:
        raise UserError(_BASE_TYPE.format(source=source))
    load_exactly(model, state, source=source, kind="WavLM")


_BASE_TYPE = (
    "{source} is a WavLM of the base type (group norm, norms after the layers); "
    "only the large type is built: give microsoft/wavlm-large or one like it"
)


def _check_config(model: WavLM, config: dict[str, object], *, source: Path) -> None:
    """Names what no shape of a tensor tells."""
    if config.get("model_type") != "wavlm":
        # A file beside another model's description.
        return
    if (config.get("feat_extract_norm"), config.get("do_stable_layer_norm")) != ("layer", True):
        raise UserError(_BASE_TYPE.format(source=source))
    expected: dict[str, object] = {
        "conv_stride": [*model.conv_strides],
        "max_bucket_distance": model.max_distance,
        "layer_norm_eps": model.layer_norm_eps,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
    }
    wrong = [
        f"{name}={config[name]!r} instead of {value!r}"
        for name, value in expected.items()
        if name in config and config[name] != value
    ]
    if wrong:
        raise UserError(f"{source} is another WavLM than this one: {'; '.join(wrong)}")


def _weight_files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (source / name).is_file():
            return [source / name]
        index = source / f"{name}.index.json"
        if index.is_file():
            return [source / part for part in parts_in(index)]
    raise UserError(
        f"no WavLM weights in {source}; model.safetensors or pytorch_model.bin is missing there"
    )


def _today(key: str) -> str:
    """torch's present names of a weight norm's parts; checkpoints of 2021 have the older ones."""
    head, _, name = key.rpartition(".")
    part = {"weight_g": "original0", "weight_v": "original1"}.get(name)
    return key if part is None else f"{head}.parametrizations.weight.{part}"
