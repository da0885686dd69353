"""Vision towers: a CLIP ViT as open_clip writes it, and the timm model that holds the same numbers.

Of the tower only the tokens are used: CLIP's projection of the pooled token has no place in ours.
"""

from flamingo.config import FlamingoVisionConfig
from flamingo.conversion.table import State, Table, leading, norm, same

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# The pooled token's way into CLIP's embedding space, which no token takes.
UNUSED = "proj"


def open_clip_table(ours: str, theirs: str, *, num_blocks: int) -> Table:
    """Keys of open_clip's `VisionTransformer` under the prefix `theirs`."""
    entries = (
        leading(f"{ours}cls_token", f"{theirs}class_embedding", dims=2),
        leading(f"{ours}pos_embed", f"{theirs}positional_embedding"),
        same(f"{ours}patch_embed.proj.weight", f"{theirs}conv1.weight"),
        *norm(f"{ours}norm_pre", f"{theirs}ln_pre"),
        *norm(f"{ours}norm", f"{theirs}ln_post"),
    )
    for i in range(num_blocks):
        mine, other = f"{ours}blocks.{i}.", f"{theirs}transformer.resblocks.{i}."
        entries += (
            *norm(f"{mine}norm1", f"{other}ln_1"),
            same(f"{mine}attn.qkv.weight", f"{other}attn.in_proj_weight"),
            same(f"{mine}attn.qkv.bias", f"{other}attn.in_proj_bias"),
            *norm(f"{mine}attn.proj", f"{other}attn.out_proj"),
            *norm(f"{mine}norm2", f"{other}ln_2"),
            *norm(f"{mine}mlp.fc1", f"{other}mlp.c_fc"),
            *norm(f"{mine}mlp.fc2", f"{other}mlp.c_proj"),
        )
    return entries


def num_blocks(state: State, prefix: str) -> int:
    """Blocks of our tower whose keys begin with `prefix`."""
    start = f"{prefix}blocks."
    return len({key[len(start) :].split(".")[0] for key in state if key.startswith(start)})


def clip_vision_config(name: str, *, image_size: int, layer: int | None) -> FlamingoVisionConfig:
    """timm's model of that name, fed with pixels as CLIP's towers were."""
    return FlamingoVisionConfig(
        name=name, image_size=image_size, layer=layer, image_mean=CLIP_MEAN, image_std=CLIP_STD
    )
