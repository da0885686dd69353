"""The README.md of a folder with a model, as the Hugging Face Hub shows it: what it is, parameters
per component, how to load and ask it, what it was trained on, figures, limits. Everything is read
from files; of paths only the last name is told, since the folder may be made public."""

import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from safetensors import SafetensorError, safe_open

from common.checkpoint.pretrained import read_config
from common.errors import UserError

README, CONFIG = "README.md", "config.json"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # "meta-llama/Llama-3.1-70B"
LICENSE = "apache-2.0"  # this project's; weights around others follow those


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What follows from the class of the model."""

    title: str
    about: str
    usage: str
    tags: tuple[str, ...]
    pipeline_tag: str | None
    limits: tuple[str, ...]
    backbones: tuple[str, ...] = ()  # where they were loaded from


def write_model_card(
    folder: Path, *, run: Path | None = None, results: Sequence[Path] = ()
) -> Path:
    """Write `README.md` beside the weights; the front matter is the Hub's.

    Args:
        run: folder of the training run, whose `config.json` and `metrics.jsonl` are told.
        results: `results.json` files that `scripts/evaluate.py` wrote.

    Raises:
        UserError: the folder has no safetensors files, or a file of the run or of results cannot
            be read.
    """
    parameters = _parameters(folder)
    kind = _kind(folder)
    evaluations = [_read_json(path) for path in results]
    trained = {} if run is None else _read_json(run / CONFIG)
    name = str(trained.get("task", {}).get("model", kind.title))
    sections = {
        "Parameters": _table(("component", "parameters"), _parameter_rows(parameters)),
        "Use": kind.usage,
        "Training": "No record of the training is at hand." if run is None else _told(run, trained),
        "Evaluation": _evaluation(evaluations),
        "Limits": "\n".join(f"- {limit}" for limit in kind.limits),
    }
    parts = [
        f"---\n{_front_matter(kind, name, evaluations)}\n---",
        f"# {name}",
        kind.about,
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
    ]
    readme = folder / README
    readme.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return readme


def _parameters(folder: Path) -> Counter[str]:
    """Stored numbers per part of the model, read off the headers of the files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no .safetensors file; name the folder of a model")
    found: Counter[str] = Counter()
    for file in files:
        found.update(_parameters_in(file))
    return found


def _parameters_in(file: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    try:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 -- it is no mapping
                found[key.split(".")[0]] += prod(tensors.get_slice(key).get_shape())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is damaged ({error}); copy it again") from error
    return found


def _kind(folder: Path) -> _Kind:
    if not (folder / CONFIG).exists():
        return _bare_weights()
    config = read_config(folder)
    package = type(config).__module__.split(".")[0]
    if package == "transformers":
        return _language_model(config)
    model = getattr(import_module(package), config.architectures[0])
    size = config.vision_config.image_size
    return _Kind(
        title=config.model_type,
        about=inspect.cleandoc(sys.modules[model.__module__].__doc__ or ""),
        usage=_multimodal_usage(package),
        tags=(package, *model.input_modalities),
        pipeline_tag="image-text-to-text",
        limits=(
            f"Images are scaled and cropped to {size} x {size} pixels.",
            "It continues documents as those it was trained on; unless the training above says so, "
            "it was not tuned to follow instructions or to refuse harmful ones.",
            "What it writes may be wrong, and repeats the biases of its data.",
        ),
        backbones=tuple(_backbones(config)),
    )


def _language_model(config: Any) -> _Kind:
    return _Kind(
        title=config.model_type,
        about=f"A causal language model of the {config.model_type} family.",
        usage=_code(
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        ),
        tags=(config.model_type,),
        pipeline_tag="text-generation",
        limits=("What it writes may be wrong, and repeats the biases of its data.",),
    )


def _bare_weights() -> _Kind:
    return _Kind(
        title="weights",
        about="Weights without a configuration: what a training run trained, or a vision encoder.",
        usage=_code(
            "from safetensors.torch import load_file",
            "",
            'weights = load_file("FILE.safetensors")',
        ),
        tags=(),
        pipeline_tag=None,
        limits=("Parts that stayed frozen in training are not here.",),
    )


def _multimodal_usage(package: str) -> str:
    code = _code(
        "from PIL import Image",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f"from {package}.generation import complete",
        "",
        'model = AutoModelForImageTextToText.from_pretrained("FOLDER")',
        'processor = AutoProcessor.from_pretrained("FOLDER")',
        'prompt = [Image.open("photo.jpg"), "Question: What is shown? Short answer:"]',
        "print(complete(model, processor, [prompt], max_new_tokens=20)[0])",
    )
    return (
        f"The classes are those of the package `{package}`; importing it makes them known to "
        f"transformers.\n\n{code}"
    )


def _backbones(config: Any) -> Iterator[str]:
    for part in (config.text_config, config.vision_config):
        if name := getattr(part, "_name_or_path", ""):
            yield str(name)


def _front_matter(kind: _Kind, name: str, evaluations: Sequence[Mapping[str, Any]]) -> str:
    figures = [
        EvalResult(
            task_type=kind.pipeline_tag or "other",
            dataset_type=re.sub(r"\W+", "-", evaluation["name"].lower()),
            dataset_name=evaluation["name"],
            metric_type=re.sub(r"\W+", "-", score["metric"].lower()),
            metric_name=f"{score['metric']}{_setting(score)}",
            metric_value=round(score["value"], 2),
        )
        for evaluation in evaluations
        for score in _whole_scores(evaluation)
    ]
    bases = [n for n in kind.backbones if HUB_NAME.fullmatch(n) and not Path(n).exists()]
    data = ModelCardData(
        license="other" if kind.backbones else LICENSE,
        license_name="of-its-backbones" if kind.backbones else None,
        library_name="transformers",
        pipeline_tag=kind.pipeline_tag,
        tags=list(kind.tags) or None,
        base_model=bases or None,
        model_name=name if figures else None,
        eval_results=figures or None,
    )
    return data.to_yaml()


def _parameter_rows(parameters: Counter[str]) -> list[tuple[str, str]]:
    rows = [(name, f"{num:,}") for name, num in parameters.most_common()]
    return [*rows, ("**all**", f"**{parameters.total():,}**")]


def _told(run: Path, trained: Mapping[str, Any]) -> str:
    """Settings of a run, and the last figures on held-out data."""
    parts = [_table(("setting", "value"), [*_settings(trained)])]
    figures = _last_validation(run / "metrics.jsonl")
    if figures:
        rows = [(name.removeprefix("validation/"), f"{x:.4g}") for name, x in figures.items()]
        parts += ["On held-out data at the end:", _table(("figure", "value"), rows)]
    return "\n\n".join(parts)


def _settings(value: Any, *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves with their dotted names; of lists of tables each with its number."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, prefix=f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from _settings(inner, prefix=f"{prefix}.{number}")
    elif value is not None:
        yield prefix, Path(value).name if isinstance(value, str) else json.dumps(value)


def _last_validation(metrics: Path) -> dict[str, float]:
    if not metrics.exists():
        return {}
    for line in reversed(metrics.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        figures = {name: x for name, x in row.items() if name.startswith("validation/")}
        if figures:
            return figures
    return {}


def _evaluation(evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not evaluations:
        return "None is recorded here."
    rows = [
        (evaluation["name"], f"{score['metric']}{_setting(score)}", *_value(score))
        for evaluation in evaluations
        for score in _whole_scores(evaluation)
    ]
    return _table(("benchmark", "figure", "value", "95 %", "examples"), rows)


def _whole_scores(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [score for score in evaluation["scores"] if not score["part"]]


def _setting(score: Mapping[str, Any]) -> str:
    said = [] if score["shots"] is None else [f"{score['shots']} shots"]
    said += [*score["setting"].values(), *(["blind"] if score["blind"] else [])]
    return f" ({', '.join(said)})" if said else ""


def _value(score: Mapping[str, Any]) -> tuple[str, str, str]:
    ends = score["interval"]
    interval = "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"
    return f"{score['value']:.2f}", interval, f"{score['num']:,}"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; name a file that a run wrote") from error


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)


def _code(*lines: str) -> str:
    return "\n".join(("```python", *lines, "```"))
