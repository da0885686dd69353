"""S3: a configuration that someone else wrote, as JSON, as options or as a model's config.json:
one line that says where, no class of another's built, nothing allocated."""

import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from common.checkpoint.config_values import refuse_hostile
from common.checkpoint.pretrained import read_config, read_model
from common.encoders.wavlm import load_wavlm
from common.errors import UserError
from common.training.command_line import main
from common.training.config_json import from_json, to_json
from common.training.run import RunConfig
from flamingo.recipes import flamingo_tiny
from flare.recipes import flare_tiny
from tests.common.training.toy import make_task, toy
from tests.flamingo import tiny
from tests.flare import tiny as tiny_flare
from tests.matrix import Counted
from tests.security.outcomes import one_line

FUZZED = 300
MAX_GROWTH_KB = 100_000
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**9, 10**400, -(10**30), 1e308, float("nan"), float("inf"), "", "10",
    "../../x", "\0", "\udc80", [], [[]], {}, {"a": 1}, [1] * 50, "a" * 5_000,
)  # fmt: skip


def complaint(action: Callable[[], object]) -> str | None:
    try:
        action()
    except UserError as error:
        return one_line(error)
    return None


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key of every table."""
    if not isinstance(data, dict):
        return []
    own = [(*path, key) for key in data]
    return own + [place for key in data for place in places(data[key], (*path, key))]


def with_value(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def test_a_run_s_configuration_is_read_or_refused_in_one_line(counted: Counted) -> None:
    draw = random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(FUZZED):
        run = (flamingo_tiny, flare_tiny)[number % 2]()
        kind = RunConfig[type(run.task)]  # type: ignore[misc]  # known at run time
        data = to_json(run)
        place = draw.choice(places(data))
        key = place[-1]
        if number % 5 == 0:
            place = (*place[:-1], f"{key}x")
        changed = with_value(data, place, draw.choice(ODD))
        told = complaint(lambda kind=kind, changed=changed: from_json(kind, changed))
        refused += told is not None
        if told is not None:
            named = [str(part) for part in place]
            assert any(part.rstrip("x") in told for part in named), (place, told)
    assert refused > FUZZED / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KB
    counted("S3", "values and keys of a run's configuration", FUZZED)


OPTIONS = (
    "--steps 1e9", "--steps nan", "--steps -3", "--steps 0", "--steps ''", "--steps [1]",
    "--optimizer.peak-learning-rate nan", "--optimizer.peak-learning-rate inf",
    "--optimizer.peak-learning-rate -1", "--optimizer.peak-learning-rate 0",
    "--optimizer.weight-decay nan", "--optimizer.weight-decay -1", "--schedule.warmup-steps -1",
    "--schedule.final-fraction nan", "--schedule.final-fraction 2", "--schedule.kind exp",
    "--checkpoint.keep 0", "--checkpoint.every-steps 0", "--num-micro-batches 0",
    "--num-workers -1", "--max-fault-share nan", "--max-fault-share 2", "--log-every 0",
    "--health.spike-factor 0.5", "--health.spike-factor nan", "--health.hang-timeout-s -1",
    "--precision fp8", "--recompute some", "--seed x", "--health.spike-window many",
    "--task.hidden-dim x",
    "--__class__ 1", "--task.__init__ 1", "--config !!python/object/apply:os.system",
    "--parallel.shard x", "--parallel.pipeline 0", "--stop-patience 0", "--validate-every 0",
)  # fmt: skip


def test_an_option_out_of_range_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counted: Counted
) -> None:
    for option in OPTIONS:
        words = ["toy", *option.split(" "), "--dry-run", "--run-folder", str(tmp_path / "run")]
        status = main({"toy": toy}, make_task, description="A toy.", arguments=words)
        captured = capsys.readouterr()
        assert status == 2, option
        assert captured.err.startswith("error: "), option
        assert captured.err.count("\n") == 1, option
        assert not captured.out, option
        name = option.split(" ")[0].removeprefix("--").split(".")[-1]
        assert name.replace("-", "_") in captured.err.replace("-", "_"), (option, captured.err)
    assert not (tmp_path / "run").exists()
    counted("S3", "options", len(OPTIONS))


CONFIGS: dict[str, str] = {
    "no JSON": "{",
    "a list": "[]",
    "a number of 5,000 digits": '{"model_type": "flamingo", "x": ' + "9" * 5_000 + "}",
    "100,000 levels": '{"model_type":' + "[" * 100_000,
    "no Unicode": '"\udc80',
    "no type": "{}",
    "type of another kind": '{"model_type": ["flamingo"]}',
    "unknown type": '{"model_type": "evil"}',
    "path for a type": '{"model_type": "../../evil"}',
}
FIELDS: dict[str, tuple[tuple[str, ...], Any]] = {
    "10^9 layers": (("text_config", "num_hidden_layers"), 10**9),
    "width of 10^12": (("text_config", "hidden_size"), 10**12),
    "negative width": (("text_config", "hidden_size"), -24),
    "no heads": (("text_config", "num_attention_heads"), 0),
    "vocabulary of 10^15": (("text_config", "vocab_size"), 10**15),
    "infinite rate": (("text_config", "attention_dropout"), float("inf")),
    "rate above 1": (("text_config", "attention_dropout"), 1.5),
    "norm of less than nothing": (("text_config", "rms_norm_eps"), -1.0),
    "bridge's norm that is no number": (("cross_attention_rms_eps",), float("nan")),
    "end beyond the vocabulary": (("text_config", "eos_token_id"), 10**6),
    "begin below the vocabulary": (("text_config", "bos_token_id"), -7),
    "pad beyond the vocabulary": (("text_config", "pad_token_id"), 10**6),
    "rotation of less than nothing": (
        ("text_config", "rope_parameters"), {"rope_type": "default", "rope_theta": -1.0},
    ),
    "pixels divided by nothing": (("vision_config", "image_std"), [0.5, 0, 0.5]),
    "image of -32 pixels a side": (("vision_config", "image_size"), -32),
    "text for a number": (("media_dim",), "28"),
    "table for a number": (("media_dim",), {"a": 1}),
    "10^9 latents": (("num_latents",), 10**9),
    "no latents": (("num_latents",), -1),
    "no interval": (("cross_attention_interval",), 0),
    "text model of nobody": (("text_config", "model_type"), "evil"),
    "vision of nobody": (("vision_config", "name"), "evil"),
    "options of nobody": (("vision_config", "model_options"), {"evil": 1}),
    "image of 10^9 pixels a side": (("vision_config", "image_size"), 10**9),
}  # fmt: skip

FLARE_FIELDS: dict[str, tuple[tuple[str, ...], Any]] = {
    "rotation of nothing": (("text_config", "rotary_base"), 0),
    "no pad of this vocabulary": (("text_config", "pad_token_id"), 10**6),
    "ends beyond the vocabulary": (("text_config", "eos_token_id"), [2, 10**6]),
    "image token below zero": (("image_token_id",), -3),
    "audio token beyond the vocabulary": (("audio_token_id",), 10**6),
    "image token twice": (("audio_token_id",), 3),
    "layers left out more than always": (("audio_config", "layer_drop"), 2.0),
    "frames hidden less than never": (("audio_config", "mask_time_share"), -0.1),
    "hidden spans of no length": (("audio_config", "mask_time_length"), 0),
    "standing still": (("audio_config", "conv_strides"), [5, 0, 2]),
    "an image beside the grid of positions": (("vision_config", "image_size"), 40),
    "an image without pixels": (("vision_config", "image_size"), 0),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each model."""
    root = tmp_path_factory.mktemp("published")
    tiny.model(vocab_size=300).save_pretrained(root / "flamingo")
    tiny_flare.model().save_pretrained(root / "flare")
    return root


def refused(folder: Path, text: str) -> str | None:
    """What is said of a model with this config.json."""
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    return complaint(
        lambda: read_model(AutoModelForImageTextToText, folder, config=read_config(folder))
    )


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_absurd_numbers_is_refused(saved: Path, counted: Counted) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, fields in {"flamingo": FIELDS, "flare": FLARE_FIELDS}.items():
        folder = saved / kind
        whole = (folder / "config.json").read_text()
        for name, (place, value) in fields.items():
            told = refused(folder, json.dumps(with_value(json.loads(whole), place, value)))
            assert told is not None, name
        assert refused(folder, whole) is None
    for name, text in CONFIGS.items():
        assert refused(saved / "flamingo", text) is not None, name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KB
    counted("S3", "config.json of a model", len(CONFIGS) + len(FIELDS) + len(FLARE_FIELDS))


NUMBERS: tuple[tuple[str, str], ...] = (
    ("attention_dropout", "Infinity"), ("attention_dropout", '{"__float__": "Infinity"}'),
    ("hidden_dropout_prob", "NaN"), ("classifier_dropout", "-0.1"), ("resid_pdrop", "1.5"),
    ("drop_path_rate", "[0.1, 2]"), ("layerdrop", "-1e308"), ("mask_time_prob", "7"),
    ("rms_norm_eps", "-1e-6"), ("layer_norm_epsilon", "10"), ("rope_theta", "-10000.0"),
    ("rope_local_base_freq", "0"), ("image_size", "-224"), ("image_size", "[224, 1000000000]"),
    ("image_std", "[0.2, 0, 0.2]"), ("image_mean", "[0.5, 0.5, 100]"), ("max_position", "1e999"),
    ("initializer_range", "-0.02"), ("conv_stride", "[5, -2]"), ("num_hidden_layers", "9" * 400),
)  # fmt: skip


def test_a_number_that_cannot_be_is_named_and_one_that_can_is_not(
    tmp_path: Path, counted: Counted
) -> None:
    for kind in ("mamba2", "falcon_h1", "gemma3_text", "gpt2", "opt", "siglip", "clip", "wavlm"):
        written = AutoConfig.for_model(kind).to_json_string(use_diff=False)
        refuse_hostile(json.loads(written), tmp_path)
    for key, value in NUMBERS:
        (tmp_path / "config.json").write_text(
            f'{{"model_type": "llama", "rope_parameters": {{"{key}": {value}}}}}'
        )
        told = complaint(lambda: read_config(tmp_path))
        assert told is not None, (key, value)
        assert f" {key}=" in told, (key, told)
    counted("S3", "numbers in a config.json", len(NUMBERS))


def test_an_index_names_no_file_elsewhere(tmp_path: Path, counted: Counted) -> None:
    model = tiny_flare.model().audio_encoder
    outside = tmp_path / "secret.safetensors"
    outside.write_bytes(b"secret")
    (tmp_path / "m").mkdir()
    index = tmp_path / "m" / "model.safetensors.index.json"
    hostile = ("../secret.safetensors", str(outside), "a/../../secret.safetensors", 3, None)
    for place in hostile:
        index.write_text(json.dumps({"weight_map": {"a": place}}))
        told = complaint(lambda: load_wavlm(model, tmp_path / "m"))
        assert told is not None
        assert "names files that do not lie beside it" in told
    folder = tmp_path / "whole"
    tiny.model(vocab_size=300).save_pretrained(folder)
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(outside)  # which transformers would read
    for place in hostile:
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(names, place)}))
        told = complaint(
            lambda: read_model(AutoModelForImageTextToText, folder, config=read_config(folder))
        )
        assert told is not None
        assert "names files that do not lie beside it" in told
    counted("S3", "files named by an index", 2 * len(hostile))
