"""Keys of a CLIP vision tower: in timm, which ours are, in open_clip and in transformers.

Of a tower only its tokens are used: the projection of the pooled token has no place in ours.
"""

from common.checkpoint.key_table import State, Table, gathered, leading, norm, same

# open_clip's projection of the pooled token into CLIP's embedding space, which no token takes.
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


def transformers_clip_table(ours: str, theirs: str, *, num_blocks: int) -> Table:
    """Keys of transformers' `CLIPVisionModel`, which Idefics shares, under the prefix `theirs`."""
    entries = (
        leading(f"{ours}cls_token", f"{theirs}embeddings.class_embedding", dims=2),
        leading(f"{ours}pos_embed", f"{theirs}embeddings.position_embedding.weight"),
        same(f"{ours}patch_embed.proj.weight", f"{theirs}embeddings.patch_embedding.weight"),
        *norm(f"{ours}norm_pre", f"{theirs}pre_layrnorm"),
        *norm(f"{ours}norm", f"{theirs}post_layernorm"),
    )
    for i in range(num_blocks):
        mine, other = f"{ours}blocks.{i}.", f"{theirs}encoder.layers.{i}."
        projections = [f"{other}self_attn.{name}_proj" for name in "qkv"]
        entries += (
            *norm(f"{mine}norm1", f"{other}layer_norm1"),
            *(
                gathered(f"{mine}attn.qkv.{leaf}", tuple(f"{p}.{leaf}" for p in projections))
                for leaf in ("weight", "bias")
            ),
            *norm(f"{mine}attn.proj", f"{other}self_attn.out_proj"),
            *norm(f"{mine}norm2", f"{other}layer_norm2"),
            *norm(f"{mine}mlp.fc1", f"{other}mlp.fc1"),
            *norm(f"{mine}mlp.fc2", f"{other}mlp.fc2"),
        )
    return entries


def num_blocks(state: State, prefix: str) -> int:
    """Blocks of our tower whose keys begin with `prefix`."""
    start = f"{prefix}blocks."
    return len({key[len(start) :].split(".")[0] for key in state if key.startswith(start)})
