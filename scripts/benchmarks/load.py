"""Peak memory of `from_pretrained` from a folder of several safetensors files, float32, in a fresh
process that then reads every weight, beyond that of a process with the same imports and nothing
else; beside a Llama of transformers' own. One process each: memory varies by less than a percent.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flare import FlareConfig, FlareForConditionalGeneration
from flare.config import FlareAudioConfig, FlareProjectorConfig, FlareTextConfig, FlareVisionConfig
from scripts.benchmarks.timing import Row, ratio

SHARD = "150MB"
ROOT = Path(__file__).resolve().parents[2]
LAYERS, WIDTH, HIDDEN = 10, 1024, 2816
LIMIT = 1.3

LOAD = """
import sys, time
from {module} import {name}
start = time.perf_counter()
if len(sys.argv) > 1:
    model = {name}.from_pretrained(sys.argv[1])
    for parameter in model.parameters():
        parameter.sum()  # files may be mapped, and are read only now
seconds = time.perf_counter() - start
status = dict(line.split(":") for line in open("/proc/self/status"))
print(1024 * int(status["VmHWM"].split()[0]), seconds)
"""


def figures() -> list[Row]:
    """A row for each model."""
    return [_row(make) for make in (_flamingo, _flare, _llama)]


def _row(make: Callable[[], PreTrainedModel]) -> Row:
    torch.manual_seed(0)
    model = make()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    code = LOAD.format(module=type(model).__module__.split(".")[0], name=type(model).__name__)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=SHARD)
        files = len([*Path(folder).glob("*.safetensors")])
        loaded, seconds = _run(code, folder)
    peak = loaded - _run(code)[0]
    return {
        "model": type(model).__name__,
        "weights, MB": round(weights / 1e6),
        "files": files,
        "peak, MB": round(peak / 1e6),
        "ratio": ratio(peak, weights),
        "at most": LIMIT,
        "s": round(seconds, 2),
    }


def _run(code: str, *arguments: str) -> tuple[float, float]:
    """Most bytes in memory, and seconds of loading."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    peak, seconds = done.stdout.split()[-2:]
    return float(peak), float(seconds)


def _flamingo() -> PreTrainedModel:
    return FlamingoForConditionalGeneration(
        FlamingoConfig(
            vision_config={
                "model_type": "flamingo_vision",
                "name": "vit_base_patch16_clip_224",
                "model_options": {"embed_dim": 512, "depth": 4, "num_heads": 8},
            },
            text_config=_llama_config(LAYERS),
            media_dim=512,
            resampler_layers=2,
            resampler_heads=8,
            resampler_head_dim=64,
            resampler_feed_forward_dim=2048,
            cross_attention_interval=4,
            cross_attention_feed_forward_dim=4096,
        )
    )


def _flare() -> PreTrainedModel:
    projector = {"num_layers": 2, "num_heads": 8, "head_dim": 128, "feed_forward_dim": HIDDEN}
    vision = {"patch_size": 14, "embed_dim": 512, "depth": 4, "num_heads": 8}
    audio = {"dim": 512, "num_layers": 4, "num_heads": 8, "feed_forward_dim": 2048}
    return FlareForConditionalGeneration(
        FlareConfig(
            text_config=FlareTextConfig(
                vocab_size=8192,
                hidden_size=WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=8,
                num_key_value_heads=8,
                head_dim=128,
                intermediate_size=HIDDEN,
            ),
            vision_config=FlareVisionConfig(model_options=vision),
            audio_config=FlareAudioConfig(**audio),
            vision_projector=FlareProjectorConfig(**projector),
            audio_projector=FlareProjectorConfig(**projector),
        )
    )


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_llama_config(LAYERS + 3)))


def _llama_config(layers: int) -> dict[str, int | str]:
    return {
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
