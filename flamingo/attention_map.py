"""Where each token looks: its attention over images, and over the patches of its own image.

Read off one forward pass: a gated block's weights of a token on the latents of all items, times the
weights of those latents on the visual features in the resampler's last layer, averaged over heads,
latents and blocks. A picture for a reader, no explanation of the model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from flamingo.gated_cross_attention import MediaAttention
from flamingo.media import Media
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor, Part
from flamingo.resampler import ResamplerLayer


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """Attention of a document's tokens; rows of zeros belong to tokens that see no image."""

    tokens: list[str]
    images: Float[Tensor, "s m"]  # share of each token's attention on each image
    patches: Float[Tensor, "s n"]  # over the features of the image it looks at most


@torch.no_grad()
def attention_map(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, parts: list[Part]
) -> AttentionMap:
    """Attention of one document."""
    inputs = processor.prompts([parts]).to(model.device)
    with _recorded(model) as seen:
        model.eval()(**inputs, use_cache=False)
    on_latents = torch.stack([_text_weights(*call) for call in seen.text]).mean(0)
    on_patches = _latent_weights(*seen.latents[-1])
    on_images = reduce(on_latents, "s m q -> s m", "sum")
    most = on_images.argmax(-1)
    own = on_latents[torch.arange(len(most)), most]
    return AttentionMap(
        tokens=processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()),
        images=on_images,
        patches=torch.einsum("sq,sqn->sn", own, on_patches[most]),
    )


@dataclass(frozen=True)
class _Seen:
    text: list[tuple[MediaAttention, Tensor, Media]]
    latents: list[tuple[ResamplerLayer, Tensor, Tensor]]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[_Seen]:
    """Collects the inputs of the attention layers of one call."""
    seen = _Seen([], [])

    def keep_text(module: MediaAttention, args: tuple[Any, ...]) -> None:
        seen.text.append((module, args[0], args[1]))

    def keep_latents(module: ResamplerLayer, args: tuple[Any, ...]) -> None:
        seen.latents.append((module, args[0], args[1]))

    keepers: dict[type[nn.Module], Callable[..., None]] = {
        MediaAttention: keep_text,
        ResamplerLayer: keep_latents,
    }
    handles = [
        module.register_forward_pre_hook(keepers[type(module)])
        for module in model.modules()
        if type(module) in keepers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _text_weights(
    attention: MediaAttention, text: Float[Tensor, "1 s d"], media: Media
) -> Float[Tensor, "s m q"]:
    """Softmax over the latents that each token may see, mean over heads."""
    keys, _ = attention.keys_and_values(media, rows=1)
    assert keys is not None  # the document has an image
    queries = rearrange(attention.to_query(text), "1 s (h e) -> h s e", h=attention.num_heads)
    keys = rearrange(keys, "1 m h q e -> h m q e")
    scores = torch.einsum("hse,hmqe->hsmq", queries, keys) * queries.shape[-1] ** -0.5
    item = torch.arange(1, keys.shape[1] + 1, device=text.device)
    last = media.item[0, :, None]
    first = last if media.attention == "own" else media.first[0, :, None]
    visible = (item >= first) & (item <= last) & (last > 0)
    scores = scores.masked_fill(~visible[None, :, :, None], -torch.inf)
    weights = rearrange(scores, "h s m q -> h s (m q)").softmax(-1).nan_to_num()
    return reduce(weights, "h s (m q) -> s m q", "mean", m=keys.shape[1])


def _latent_weights(
    layer: ResamplerLayer, latents: Float[Tensor, "m q d"], media: Float[Tensor, "m n d"]
) -> Float[Tensor, "m q n"]:
    """Weights of the latents on the features, the latents' own share left out, mean over heads."""
    queries, features = layer.to_query(layer.latents_norm(latents)), layer.media_norm(media)
    q = rearrange(queries, "m q (h e) -> m h q e", h=layer.num_heads)
    k = rearrange(layer.to_key(features), "m n (h e) -> m h n e", h=layer.num_heads)
    scores = torch.einsum("mhqe,mhne->mhqn", q, k) * q.shape[-1] ** -0.5
    return reduce(scores.softmax(-1), "m h q n -> m q n", "mean")
