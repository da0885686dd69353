"""Vision encoder: any timm model by name, reduced to one sequence of tokens per image.

The tokens are timm's `forward_features`: what the network holds after its last norm or activation
and before any pooling, with class and register tokens dropped unless asked for; convolutional maps
are read row by row. Of a transformer the output of an earlier block can be read instead, as it is,
without norm. The classifier is removed. Normalisation by mean and standard deviation happens
inside, so a caller hands over plain pixels. Nothing is ever downloaded: weights are random or a
local file.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn

from common.encoders.weights import load_exactly, read_weights
from common.errors import UserError
from common.json_files import read_json_object

WEIGHTS_FILE = "vision.safetensors"
DESCRIPTION_FILE = "vision.json"
# timm's names of what a transformer does to the output of its last block.
_AFTER_THE_BLOCKS = ("norm", "attn_pool", "fc_norm", "head")


class VisionEncoder(nn.Module):
    """A timm backbone as `pixels -> tokens`; `mean` and `std` are per channel, of pixels in 0..1.

    `layer` counts a transformer's blocks, from the end if negative: -2 reads the last but one. What
    comes after it is kept, for the names and for other readers, and not trained.

    Names of local weights are timm's own (`timm.create_model(name).state_dict()`); loading is
    strict except that the classifier, which this module does not have, is left out.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        model_options: Mapping[str, object],
        mean: Sequence[float],
        std: Sequence[float],
        layer: int | None = None,
        class_token: bool = False,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.model_options = dict(model_options)
        # Plain numbers, not buffers: transformers builds models on the meta device and would
        # leave a buffer that is not in the checkpoint uninitialised.
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.model = _create(name, image_size=image_size, options=self.model_options)
        _give_every_parameter_a_dimension(self.model)
        self.dim: int = self.model.num_features
        self.num_tokens: int = _count_tokens(self.model, image_size=image_size)
        self.class_token = class_token
        if class_token:
            self.num_tokens += _num_prefix_tokens(self.model, name=name)
        self.layer = layer
        if layer is not None:
            _freeze_after(self.model, _block_number(self.model, name=name, layer=layer))
        if weights is not None:
            load_vision(self, weights)

    @classmethod
    def from_folder(cls, folder: Path) -> "VisionEncoder":
        """The encoder that `save` wrote into a folder."""
        description = read_description(folder)
        return cls(**description, weights=folder / WEIGHTS_FILE)  # type: ignore[arg-type]  # JSON

    def forward(
        self, pixels: UInt8[Tensor, "b c y x"] | Float[Tensor, "b c y x"]
    ) -> Float[Tensor, "b n d"]:
        """Tokens of images whose pixels are bytes 0..255 or floats 0..1."""
        pixels = self._normalise(pixels)
        if self.layer is not None:
            ((features, prefix),) = self.model.forward_intermediates(
                pixels,
                indices=[self.layer],
                stop_early=True,
                norm=False,
                output_fmt="NLC",
                intermediates_only=True,
                return_prefix_tokens=True,
            )
            return torch.cat([prefix, features], dim=1) if self.class_token else features
        features = self.model.forward_features(pixels)
        if features.ndim == 3:
            return features if self.class_token else features[:, self.model.num_prefix_tokens :]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return rearrange(features, "b y x d -> b (y x) d")
        return rearrange(features, "b d y x -> b (y x) d")

    @property
    def blocks(self) -> list[nn.Module]:
        """A transformer's blocks, or those of a convolutional network's stages, as they run."""
        if hasattr(self.model, "blocks"):
            return [*self.model.blocks]
        return [block for stage in self.model.stages for block in stage.children()]

    def save(self, folder: Path) -> None:
        """Writes weights and description so that `from_folder` rebuilds the same encoder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.contiguous().cpu() for key, value in self.model.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)
        description = {
            "name": self.name,
            "image_size": self.image_size,
            "model_options": self.model_options,
            "mean": self.mean,
            "std": self.std,
            "layer": self.layer,
            "class_token": self.class_token,
        }
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")

    def _normalise(
        self, pixels: UInt8[Tensor, "b c y x"] | Float[Tensor, "b c y x"]
    ) -> Float[Tensor, "b c y x"]:
        unit = 255.0 if pixels.dtype == torch.uint8 else 1.0
        pixels = pixels.float()
        # Channel by channel with Python numbers: no copy from host to device in a step.
        channels = [
            (pixels[:, index] - mean * unit) / (std * unit)
            for index, (mean, std) in enumerate(zip(self.mean, self.std, strict=True))
        ]
        return torch.stack(channels, dim=1).to(next(self.model.parameters()).dtype)


def read_description(folder: Path) -> dict[str, object]:
    """The arguments of `VisionEncoder`, without weights, that `VisionEncoder.save` wrote.

    Raises:
        UserError: there are none, or they are no JSON.
    """
    file = folder / DESCRIPTION_FILE
    if not file.is_file():
        raise UserError(
            f"no vision encoder in {folder}: {DESCRIPTION_FILE} is missing there; "
            "train the contrastive stage first or give its model folder"
        )
    return read_json_object(file)


def load_vision(encoder: VisionEncoder, source: Path) -> None:
    """Fills the encoder from a file with timm's names or a folder that `VisionEncoder.save` wrote.

    The classifier, which the encoder does not have, is left out.
    """
    file = source / WEIGHTS_FILE if source.is_dir() else source
    expected = encoder.model.state_dict()
    classifier = _classifier_names(encoder.model)
    state = {
        key: value.reshape(1) if key in expected and expected[key].shape == (1,) else value
        for key, value in read_weights(file, kind="vision").items()
        if not key.startswith(classifier)
    }
    load_exactly(encoder.model, state, source=file, kind="vision")


def _create(name: str, *, image_size: int, options: Mapping[str, object]) -> Any:
    """timm's model; its models share conventions, not a type."""
    import timm  # noqa: PLC0415  # takes seconds; most of the code never needs it

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {name!r}; near names: {', '.join(close) or 'none'}")
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    size: dict[str, object] = {"img_size": image_size} if fixed else {}
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **size, **options)
    except (TypeError, AssertionError) as error:
        raise UserError(f"timm cannot build {name} with {dict(options)}: {error}") from error


def _give_every_parameter_a_dimension(model: nn.Module) -> None:
    """Reshapes scalars such as NFNet's `skipinit_gain` to (1,): sharding refuses shape ()."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 0:
                module.register_parameter(name, nn.Parameter(parameter.detach().reshape(1)))


def _block_number(model: Any, *, name: str, layer: int) -> int:
    """The block that is read, counted from 0."""
    if not hasattr(model, "blocks") or not hasattr(model, "num_prefix_tokens"):
        raise UserError(f"{name} is no plain transformer; its tokens come from its end: layer=None")
    num_blocks = len(model.blocks)
    if not -num_blocks <= layer < num_blocks:
        raise UserError(
            f"layer={layer} is none of {name}'s {num_blocks} blocks; "
            f"choose from {-num_blocks} to {num_blocks - 1}"
        )
    return layer % num_blocks


def _num_prefix_tokens(model: Any, *, name: str) -> int:
    if not hasattr(model, "num_prefix_tokens"):
        raise UserError(f"{name} has no class token; leave out class_token")
    return int(model.num_prefix_tokens)


def _freeze_after(model: Any, block: int) -> None:
    """What never gets a gradient must not wait for one."""
    for name, module in model.named_children():
        if name in _AFTER_THE_BLOCKS:
            module.requires_grad_(False)
    for later in model.blocks[block + 1 :]:
        later.requires_grad_(False)


def _count_tokens(model: Any, *, image_size: int) -> int:
    """Tokens of one image, without running the model: it may live on the meta device."""
    if hasattr(model, "num_prefix_tokens"):
        rows, columns = model.patch_embed.grid_size
        return int(rows * columns)
    reduction = int(model.feature_info[-1]["reduction"])
    if image_size % reduction:
        raise UserError(
            f"image size {image_size} is not a multiple of {reduction}, the stride of this encoder"
        )
    return (image_size // reduction) ** 2


def _classifier_names(model: Any) -> tuple[str, ...]:
    """Prefixes of the classifier's parameters in a full timm checkpoint."""
    names: str | tuple[str, ...] = model.pretrained_cfg["classifier"]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
