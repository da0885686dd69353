"""How far from what the device allows: first its memory's bandwidth and its matrix rate as measured
here, then for each piece the time that its bytes and its operations cannot be done without.

bfloat16 on a GPU, float32 on a CPU. A floor takes every operand from memory once and puts every
result there once; backward passes do twice the operations of forward passes (attention 2.5 times,
for it recomputes its scores). Half of the peak, as trainers count it, is a ratio of 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from common.attention.masks import causal, valid_keys
from common.attention.media import attend_own_media
from common.attention.rope import rotary
from common.encoders.wavlm_layers import RelativePositions, WavLMAttention, WavLMEncoderLayer
from common.objectives.language import linear_next_token_loss
from flare.decoder import DecoderBlock
from flare.presets import PRESETS
from scripts.benchmarks.timing import Row, alternating, seconds

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
BYTES = torch.finfo(DTYPE).bits // 8
# A CPU takes an eighth of the text; the widths are the real ones on both.
TOKENS = 2048 if DEVICE.type == "cuda" else 256
IMAGES, LATENTS, HEADS, HEAD_DIM = 32, 64, 64, 128  # of Flamingo-80B's gated blocks
FRAMES, WAVLM_DIM, WAVLM_HEADS, WAVLM_HIDDEN = 1499, 1024, 16, 4096
MATRIX, COPIED = (4096, 2**28) if DEVICE.type == "cuda" else (1536, 2**26)
REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One computation, what it must do at least, and how near to that it should come."""

    name: str
    run: Callable[[], object]
    operations: float
    bytes: float
    wanted: str


def figures() -> list[Row]:
    """The device's two rates, then a row for every piece."""
    torch.manual_seed(0)
    bandwidth, rate = _bandwidth(), _matrix_rate()
    rows: list[Row] = [
        {**_row("memory, GB/s"), "measured": round(bandwidth / 1e9, 1)},
        {**_row("matrices, TFLOP/s"), "measured": round(rate / 1e12, 3)},
    ]
    for make in (_media, _wavlm, _loss, _block, _token):
        piece = make()
        piece.run()  # compiles, and fills caches
        (time,) = alternating([piece.run], repeats=REPEATS)
        by_memory, by_matrices = piece.bytes / bandwidth, piece.operations / rate
        floor = max(by_memory, by_matrices)
        rows.append(
            {
                **_row(piece.name),
                "GFLOP": round(piece.operations / 1e9, 2),
                "MB": round(piece.bytes / 1e6, 1),
                "bound by": "memory" if by_memory > by_matrices else "matrices",
                "floor, ms": round(1e3 * floor, 3),
                "measured": round(1e3 * time, 3),
                "ratio": round(time / floor, 2),
                "wanted": piece.wanted,
            }
        )
    return rows


def _row(name: str) -> Row:
    columns = ("GFLOP", "MB", "bound by", "floor, ms", "measured", "ratio", "wanted")
    return {"piece": name, **dict.fromkeys(columns, "")}


def _bandwidth() -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source)) for _ in range(REPEATS))
    return 2 * COPIED / best


def _matrix_rate() -> float:
    left, right = (_random(MATRIX, MATRIX) for _ in range(2))
    best = min(seconds(lambda: left @ right) for _ in range(REPEATS))
    return float(2 * MATRIX**3 / best)


@torch.no_grad()
def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=DTYPE)


def _trained(run: Callable[[], Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    upstream = torch.ones_like(run())
    return lambda: torch.autograd.grad(run(), inputs, upstream)


def _media() -> Piece:
    """Attention alone, forward and backward."""
    q = _random(1, HEADS, TOKENS, HEAD_DIM).requires_grad_()
    k, v = (_random(1, IMAGES, HEADS, LATENTS, HEAD_DIM).requires_grad_() for _ in range(2))
    item = (torch.arange(TOKENS, device=DEVICE) * IMAGES // TOKENS)[None] + 1
    text, media = q.numel(), k.numel()
    return Piece(
        name=f"media attention, {IMAGES} images, with gradients",
        run=_trained(partial(attend_own_media, q, k, v, item=item), [q, k, v]),
        operations=3.5 * 4 * text * LATENTS,
        # Forward q k v -> out; backward q k v out dout -> dq dk dv.
        bytes=BYTES * (6 * text + 6 * media),
        wanted="<= 1.3",
    )


def _wavlm() -> Piece:
    positions = RelativePositions(num_buckets=320, num_heads=WAVLM_HEADS, max_distance=800)
    attention = WavLMAttention(
        dim=WAVLM_DIM, num_heads=WAVLM_HEADS, positions=positions, backend="auto"
    )
    layer = WavLMEncoderLayer(
        attention=attention, dim=WAVLM_DIM, feed_forward_dim=WAVLM_HIDDEN, norm_eps=1e-5
    ).to(DEVICE, DTYPE)
    x = _random(1, FRAMES, WAVLM_DIM)
    mask = valid_keys(torch.ones(1, FRAMES, dtype=torch.bool, device=DEVICE))
    weights = _numel(layer)
    return Piece(
        name="WavLM-Large layer, 30 s, forward",
        run=torch.no_grad()(lambda: layer(x, None, mask=mask)),
        operations=2 * weights * FRAMES + 4 * FRAMES**2 * WAVLM_DIM,
        bytes=BYTES * (weights + 2 * x.numel()),
        wanted="",
    )


def _loss() -> Piece:
    config = PRESETS["flare_13b"]().text_config
    width, vocabulary = config.hidden_size, config.vocab_size
    hidden = _random(TOKENS, width).requires_grad_()
    weight = _random(vocabulary, width).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(vocabulary, (TOKENS,), device=DEVICE)

    def run() -> object:
        value = linear_next_token_loss(hidden, weight, targets, z_loss=1e-4)
        return torch.autograd.grad(value, [hidden, weight])

    return Piece(
        name=f"head and loss, {TOKENS} x {vocabulary}, with gradients",
        run=run,
        operations=6 * TOKENS * weight.numel(),
        bytes=BYTES * 2 * (hidden.numel() + weight.numel()),
        wanted="",
    )


def _block() -> Piece:
    block, run = _decoder_block(TOKENS)
    x = _random(1, TOKENS, block.attention_norm.normalized_shape[0]).requires_grad_()
    config = PRESETS["flare_13b"]().text_config
    width = config.num_attention_heads * config.head_dim
    weights = [*block.parameters()]
    return Piece(
        name=f"block of the 13B decoder, {TOKENS} tokens, with gradients",
        run=_trained(partial(run, x), [x, *weights]),
        operations=6 * _numel(block) * TOKENS + 3.5 * 2 * TOKENS**2 * width,
        bytes=BYTES * (3 * _numel(block) + 4 * x.numel()),
        wanted="<= 2 (MFU 50 %)",
    )


def _token() -> Piece:
    """What every token costs while decoding: all weights are read for it."""
    block, run = _decoder_block(1)
    x = _random(1, 1, block.attention_norm.normalized_shape[0])
    return Piece(
        name="block of the 13B decoder, one token",
        run=torch.no_grad()(partial(run, x)),
        operations=2 * _numel(block),
        bytes=BYTES * _numel(block),
        wanted="",
    )


def _decoder_block(num_tokens: int) -> tuple[DecoderBlock, Callable[[Tensor], Tensor]]:
    config = PRESETS["flare_13b"]().text_config
    block = DecoderBlock(
        layer=0,
        dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_key_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        feed_forward_dim=config.intermediate_size,
        norm_eps=config.rms_norm_eps,
    ).to(DEVICE, DTYPE)
    places = torch.arange(num_tokens, device=DEVICE)[None]
    cos, sin = rotary(places, head_dim=config.head_dim, base=1e4)
    tables = cos.to(DTYPE), sin.to(DTYPE)

    def run(x: Tensor) -> Tensor:
        out: Tensor = block(x, mask=causal(), rotary=tables, past_key_values=None, backend="auto")
        return out

    return block, run


def _numel(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
