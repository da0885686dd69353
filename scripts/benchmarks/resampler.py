"""The Perceiver Resampler beside other libraries', forward and backward, float32.

N images of 256 features of width 512 become 64 latents each in 2 layers of 8 heads of 64. The
others have our weights; results are checked equal first, with their activation in our layers.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.layers.feed_forward import squared_relu
from flamingo.resampler import PerceiverResampler
from scripts.benchmarks import peers
from scripts.benchmarks.memory import peak_bytes
from scripts.benchmarks.timing import CLOCK, Row, alternating, ratio

IMAGES = (1, 8, 32)
FEATURES, WIDTH, LATENTS, LAYERS, HEADS, HEAD_DIM = 256, 512, 64, 2, 8, 64
REPEATS = 7
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "open_flamingo": F.gelu,
    "flamingo_pytorch": F.gelu,
    "transformers": F.relu,
}
# How each wants images (b m n d).
LAYOUTS = {
    "open_flamingo": "b m n d -> b m 1 n d",
    "flamingo_pytorch": "b m n d -> b m n d",
    "transformers": "b m n d -> (b m) n d",
}


def figures() -> list[Row]:
    """A row for every library at every number of images."""
    return [row for num_images in IMAGES for row in _rows(num_images)]


def _rows(num_images: int) -> list[Row]:
    torch.manual_seed(0)
    ours = _ours()
    features = torch.randn(1, num_images, FEATURES, WIDTH, device=DEVICE, requires_grad=True)
    ways = {"ours": partial(_gradients, ours, features, "b m n d -> b m 1 n d")}
    missing = []
    for library, activation in ACTIVATIONS.items():
        theirs = peers.resampler(library, ours, num_images=num_images)
        if theirs is None:
            missing.append(library)
            continue
        ways[library] = partial(_gradients, theirs, features, LAYOUTS[library])
        _activate(ours, activation)
        torch.testing.assert_close(ways[library](), ways["ours"](), rtol=1e-3, atol=1e-4)
        _activate(ours, squared_relu)
    times = dict(
        zip(ways, alternating(list(ways.values()), repeats=REPEATS, clock=CLOCK), strict=True)
    )
    memory = {name: peak_bytes(run) for name, run in ways.items()}
    rows: list[Row] = [
        {
            "images": num_images,
            "way": name,
            "time, ms": round(1e3 * times[name], 1),
            "ours / it": ratio(times["ours"], times[name]),
            "memory, MB": round(memory[name] / 1e6, 1),
            "of its memory": ratio(memory["ours"], memory[name]),
        }
        for name in ways
    ]
    gaps = dict.fromkeys(list(rows[0])[2:], peers.NOT_INSTALLED)
    return rows + [{"images": num_images, "way": name, **gaps} for name in missing]


def _ours() -> PerceiverResampler:
    built = PerceiverResampler(
        input_dim=WIDTH,
        dim=WIDTH,
        num_latents=LATENTS,
        num_layers=LAYERS,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        feed_forward_dim=4 * WIDTH,
        num_frames=1,
        backend="auto",
    )
    nn.init.normal_(built.latents)
    nn.init.zeros_(built.time_embedding)
    return built.to(DEVICE)


def _activate(ours: PerceiverResampler, activation: Callable[[Tensor], Tensor]) -> None:
    for layer in ours.layers:
        layer.get_submodule("feed_forward").activation = activation  # type: ignore[assignment]  # no module


def _gradients(model: nn.Module, features: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Output and the gradient of the features; the weights' gradients are computed, too."""
    out = model(rearrange(features, layout)).view(1, -1, LATENTS, WIDTH)
    upstream = torch.linspace(-1, 1, out.numel(), device=DEVICE).view_as(out)
    gradient = torch.autograd.grad(
        out, [features, *model.parameters()], upstream, allow_unused=True
    )[0]
    return out.detach(), gradient
