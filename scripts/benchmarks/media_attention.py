"""How text looks at its own images: a layer (norm, projections, attention) and attention alone.

2048 tokens look at N images of 64 latents; width 512, 8 heads of 64, float32, forward and backward.
"floor" are the layer's norm and projections without any attention; "SDPA" is a dense mask in one
fused call, as a layer that of transformers' Idefics. The peers attend to every image and
mask afterwards; they cannot keep packed documents apart. Results are checked equal first; times are
of the processor where there is no GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.attention.masks import media_span
from common.attention.media import attend_own_media, attend_previous_media
from flamingo.gated_cross_attention import MediaAttention
from flamingo.media import Media
from scripts.benchmarks import peers
from scripts.benchmarks.memory import peak_bytes
from scripts.benchmarks.timing import CLOCK, Row, alternating

TOKENS, LATENTS, HEADS, HEAD_DIM = 2048, 64, 8, 64
WIDTH = HEADS * HEAD_DIM
EVEN = (1, 2, 4, 8, 16, 32)
LONG = 1900  # tokens of one image of a "long" case; all others share the rest
DOCUMENTS, BEFORE = 8, 24  # of a "packed" case; tokens of a document before its first image
REPEATS = 7
TICKS = (10, 30, 100, 300, 1000, 3000)  # of the picture
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIBRARIES = ("open_flamingo", "flamingo_pytorch")
BOTH_AT = 8  # images where the second one is timed, too: its code is that of the first


@dataclass(frozen=True, kw_only=True)
class Case:
    """`item` of a token is the last image it may see, `first` the first one; 0 is none."""

    images: int
    segments: str
    item: Tensor
    first: Tensor

    @property
    def libraries(self) -> tuple[str, ...]:
        """The peers that can compute it, and are worth the time."""
        if self.segments == "packed":
            return ()
        return LIBRARIES if self.images == BOTH_AT else LIBRARIES[:1]

    @property
    def only_own(self) -> bool:
        """Not all previous images."""
        return self.segments != "all previous"


def figures() -> list[Row]:
    """A row for the layer and one for its attention in every case."""
    return [_row(part, case) for part in ("layer", "attention") for case in cases()]


def plot(rows: list[Row], path: Path) -> None:
    """Cost against the number of images, even segments."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  # a second, for those who want a picture

    panels = (("layer", "ms"), ("attention", "ms"), ("layer", "MB"))
    colours = {"ours": "C0", "floor": "C7", "SDPA": "C2", "open_flamingo": "C3"}
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.4), constrained_layout=True)
    for axis, (part, unit) in zip(axes, panels, strict=True):
        chosen = [row for row in rows if row["part"] == part and row["segments"] == "even"]
        for way, colour in colours.items():
            points = [(row["images"], row.get(f"{way}, {unit}")) for row in chosen]
            known = [(x, y) for x, y in points if isinstance(y, int | float)]
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", color=colour, label=way)
        axis.set(xscale="log", yscale="log", xlabel="images", title=f"{part}, {unit}")
        axis.set_xticks(EVEN, EVEN)
        axis.set_yticks(TICKS, TICKS)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def cases() -> list[Case]:
    """Even segments, one long one, packed documents, and text that sees all previous images."""
    found = []
    for images in EVEN:
        even = (torch.arange(TOKENS) * images // TOKENS)[None] + 1
        found.append(Case(images=images, segments="even", item=even, first=even))
    most = EVEN[-1]
    rest = torch.arange(TOKENS - LONG) * (most - 1) // (TOKENS - LONG) + 2
    long = torch.cat([torch.ones(LONG, dtype=torch.long), rest])[None]
    found.append(Case(images=most, segments="long", item=long, first=long))
    place = torch.arange(TOKENS) % (TOKENS // DOCUMENTS)
    packed = even.where(place >= BEFORE, 0)
    found.append(Case(images=most, segments="packed", item=packed, first=packed))
    eight = next(case.item for case in found if case.images == BOTH_AT)
    first = torch.ones_like(eight)
    found.append(Case(images=BOTH_AT, segments="all previous", item=eight, first=first))
    return found


@dataclass(frozen=True, kw_only=True)
class Way:
    """One computation, forward and backward."""

    forward: Callable[[], tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]  # the same for all ways
    weights: tuple[nn.Module, ...] = ()
    is_floor: bool = False  # computes something else

    def __call__(self) -> tuple[Tensor, ...]:
        """Output and gradients of the inputs; those of the weights are computed, too."""
        outputs = self.forward()
        weights = [weight for module in self.weights for weight in module.parameters()]
        upstream = [torch.linspace(-1, 1, x.numel(), device=DEVICE).view_as(x) for x in outputs]
        gradients = torch.autograd.grad(outputs, [*self.inputs, *weights], upstream)
        return (outputs[0].detach(), *gradients[: len(self.inputs)])


def _row(part: str, case: Case) -> Row:
    ways = (_layers if part == "layer" else _attentions)(case)
    expected = ways["ours"]()
    for way in ways.values():
        if not way.is_floor:
            torch.testing.assert_close(way(), expected, rtol=1e-3, atol=1e-4)
    times = dict(
        zip(ways, alternating(list(ways.values()), repeats=REPEATS, clock=CLOCK), strict=True)
    )
    row: Row = {"part": part, "images": case.images, "segments": case.segments}
    for name in ("ours", "floor", "SDPA", *LIBRARIES):
        row[f"{name}, ms"] = round(1e3 * times[name], 1) if name in ways else _why_not(name)
    for name in ("ours", "SDPA", "open_flamingo"):
        row[f"{name}, MB"] = round(peak_bytes(ways[name]) / 1e6, 1) if name in ways else "-"
    return row


def _why_not(name: str) -> str:
    missing = name in LIBRARIES and not peers.is_installed(name)
    return peers.NOT_INSTALLED if missing else "-"


def _layers(case: Case) -> dict[str, Way]:
    """Whole layers with the same weights."""
    torch.manual_seed(0)
    norm = nn.LayerNorm(WIDTH).to(DEVICE)
    layer = MediaAttention(layer=0, dim=WIDTH, media_dim=WIDTH, head_dim=HEAD_DIM).to(DEVICE)
    idefics = peers.idefics_attention(layer)
    text, latents = _random(1, TOKENS, WIDTH), _random(1, case.images, LATENTS, WIDTH)
    media = _media(case, latents)
    mask, blind = _additive_mask(case), (media.item == 0)[..., None]

    def ours() -> tuple[Tensor, ...]:
        return (layer(norm(text), media),)

    def floor() -> tuple[Tensor, ...]:
        keys, values = layer.to_key(latents), layer.to_value(latents)
        return layer.to_output(layer.to_query(norm(text))), keys, values

    def sdpa() -> tuple[Tensor, ...]:
        images = latents.flatten(1, 2)
        out, _ = idefics(norm(text), key_value_states=images, attention_mask=mask)
        return (out.masked_fill(blind, 0.0),)

    inputs, own = (text, latents), (norm, layer)
    ways = {
        "ours": Way(forward=ours, inputs=inputs, weights=own),
        "floor": Way(forward=floor, inputs=inputs, weights=own, is_floor=True),
        "SDPA": Way(forward=sdpa, inputs=inputs, weights=(norm, idefics)),
    }
    for library in case.libraries:
        theirs = peers.masked_cross_attention(library, norm, layer, only_own=case.only_own)
        if theirs is not None:
            forward = partial(_theirs, theirs, text, latents, _tags(media.item))
            ways[library] = Way(forward=forward, inputs=inputs, weights=(theirs,))
    return ways


def _attentions(case: Case) -> dict[str, Way]:
    """Attention alone, of queries, keys and values as projections lay them out."""
    query, latents = _random(1, TOKENS, WIDTH), _random(2, case.images, LATENTS, WIDTH)
    media = _media(case, latents)
    mask, blind = _additive_mask(case), (media.item == 0)[..., None]
    q = rearrange(query, "b s (h e) -> b h s e", h=HEADS)
    k, v = rearrange(latents, "kv m n (h e) -> kv 1 m h n e", h=HEADS)

    def ours() -> tuple[Tensor, ...]:
        if case.only_own:
            out = attend_own_media(q, k, v, item=media.item)
        else:
            out = attend_previous_media(q, k, v, first=media.first, last=media.item)
        return (rearrange(out, "b h s e -> b s (h e)"),)

    def sdpa() -> tuple[Tensor, ...]:
        keys, values = (rearrange(x, "b m h n e -> b h (m n) e") for x in (k, v))
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return (rearrange(out, "b h s e -> b s (h e)").masked_fill(blind, 0.0),)

    inputs = (query, latents)
    ways = {"ours": Way(forward=ours, inputs=inputs), "SDPA": Way(forward=sdpa, inputs=inputs)}
    library = LIBRARIES[0]
    theirs = peers.bare_attention(
        library, num_heads=HEADS, head_dim=HEAD_DIM, only_own=case.only_own
    )
    if theirs is not None and case.libraries:
        # Their keys and values come out of one projection, side by side.
        def joined() -> tuple[Tensor, ...]:
            both = rearrange(latents, "kv m n d -> 1 m n (kv d)")
            return _theirs(theirs, query, both, _tags(media.item))

        ways[library] = Way(forward=joined, inputs=inputs)
    return ways


def _theirs(module: nn.Module, text: Tensor, media: Tensor, tags: Tensor) -> tuple[Tensor, ...]:
    return (module(text, media, media_locations=tags),)


def _media(case: Case, latents: Tensor) -> Media:
    return Media(
        latents=latents,
        num_new=None,
        item=case.item.to(DEVICE),
        first=case.first.to(DEVICE),
        attention="own" if case.only_own else "previous",
        backend="auto",
        cache=None,
    )


def _additive_mask(case: Case) -> Tensor:
    """As transformers makes it, once for all layers."""
    mask = media_span(case.first, case.item, tokens_per_item=LATENTS)
    allowed = mask.dense(batch=1, num_queries=TOKENS, num_keys=case.images * LATENTS, device="cpu")
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo().min).to(DEVICE)


def _tags(item: Tensor) -> Tensor:
    """Where the peers find an `<image>`: the first token of each image."""
    return F.pad(item, (1, 0)).diff() > 0


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(DEVICE).requires_grad_()
