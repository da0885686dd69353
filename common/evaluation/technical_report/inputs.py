"""What a report is asked to be about: folders of runs, of evaluations and of alignments, found and
checked before anything is drawn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.evaluation.suite_files import read_result
from common.evaluation.technical_report.sources import Source
from common.training.config_json import flatten

METRICS, CONFIG, RESULTS = "metrics.jsonl", "config.json", "results.json"
ROW = {"accuracy", "interval_95", "prior"}  # of a quickstart's own test
GENERATED = ".made-by.json"  # lies in folders of generated benchmarks
LEAST = 2  # names of a folder's path that tell it from others, or more


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder that training has written; `starts` is None for runs older than `run.json`."""

    folder: Path
    name: str  # "quickstart/flamingo"
    config: Source
    metrics: Source
    starts: Source | None
    state: Source | None  # of the newest checkpoint that is kept

    @property
    def records(self) -> list[dict[str, Any]]:
        """The joined records of metrics."""
        records: list[dict[str, Any]] = self.metrics.data
        return records

    @property
    def recipe(self) -> str:
        """What the model is called in the configuration."""
        return str(self.config.at("task", "model") or self.folder.name)

    def last_with(self, key: str) -> int | None:
        """The place of the last record that has a figure."""
        places = [n for n, record in enumerate(self.records) if record.get(key) is not None]
        return places[-1] if places else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A folder that holds `results.json`, of a suite or of a quickstart."""

    folder: Path
    name: str
    results: Source
    config: Source | None

    @property
    def is_suite(self) -> bool:
        """Of `scripts/evaluate.py`; the others come from a quickstart's own test."""
        return "scores" in self.results.data

    @property
    def model(self) -> Path | None:
        """The folder of the model that was evaluated."""
        model = None if self.config is None else self.config.at("model")
        return None if model is None else Path(model)

    @property
    def is_generated(self) -> bool:
        """Whether any file of the benchmark lies in a folder of generated ones."""
        settings = {} if self.config is None else self.config.at("settings") or {}
        paths = [Path(value) for value in flatten(settings).values() if isinstance(value, str)]
        return any((parent / GENERATED).is_file() for path in paths for parent in path.parents)

    @property
    def model_name(self) -> str:
        """`quickstart/flamingo` of `runs/quickstart/flamingo/model`."""
        return self.name if self.model is None else _short(self.model, LEAST)


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Scores before and after rounds of tuning: round -> what -> (right, number)."""

    folder: Path
    name: str
    results: Source


@dataclass(frozen=True, kw_only=True)
class Model:
    """A folder with a configuration and weights."""

    folder: Path
    name: str
    config: Source
    weights: tuple[Source, ...]

    @property
    def kind(self) -> str:
        """`flamingo`, `flare` or any type of transformers'."""
        return str(self.config.at("model_type"))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a report is about."""

    runs: tuple[Run, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    alignments: tuple[Alignment, ...] = ()
    models: tuple[Model, ...] = ()
    plans: tuple[Source, ...] = ()  # of `scripts/plan.py`
    about: Mapping[str, str] = field(default_factory=dict)  # type of model -> what it is
    limits: Mapping[str, Sequence[str]] = field(default_factory=dict)  # type -> of its structure
    power_w: float | None = None  # of a device, where no data sheet tells


def find_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """The runs in the folders or directly below them, in the order in which they were trained.

    Raises:
        UserError: a folder holds no run, or a damaged one.
    """
    found: list[Path] = []
    for folder in folders:
        below = [path.parent for path in folder.glob(f"*/{METRICS}")]
        if not (folder / METRICS).is_file() and not below:
            raise UserError(f"{folder} holds no run (no {METRICS}); name the folder of a run")
        runs = [folder] if (folder / METRICS).is_file() else below
        found += sorted(runs, key=_age)
    names = _names(found)
    return tuple(_run(path, name) for path, name in names.items())


def find_evaluations(folders: Sequence[Path]) -> tuple[Evaluation, ...]:
    """The evaluations in the folders.

    Raises:
        UserError: a folder holds none, or a damaged one.
    """
    found = []
    for folder, name in _names(folders).items():
        results = _results(folder, "scripts/evaluate.py")
        if not {"scores", "few_shot", "retrieval"} & set(results.data):
            raise UserError(f"{results.file} is of no evaluation; name what evaluate.py wrote")
        _check_results(folder, results)
        config = folder / CONFIG
        found.append(
            Evaluation(
                folder=folder,
                name=name,
                results=results,
                config=Source(config) if config.is_file() else None,
            )
        )
    return tuple(found)


def find_alignments(folders: Sequence[Path]) -> tuple[Alignment, ...]:
    """The alignments in the folders.

    Raises:
        UserError: a folder holds none, or a damaged one.
    """
    found = []
    for folder, name in _names(folders).items():
        results = _results(folder, "scripts/instruct.py")
        if not all(map(_is_score, results.data.values())):
            raise UserError(f"{results.file} is of no alignment; name what instruct.py wrote")
        found.append(Alignment(folder=folder, name=name, results=results))
    return tuple(found)


def find_models(folders: Sequence[Path]) -> tuple[Model, ...]:
    """The models in the folders.

    Raises:
        UserError: a folder has no configuration or no weights.
    """
    found = []
    for folder, name in _names(folders).items():
        weights = sorted(folder.glob("*.safetensors"))
        if not (folder / CONFIG).is_file() or not weights:
            raise UserError(f"{folder} holds no model ({CONFIG} and .safetensors); name another")
        found.append(
            Model(
                folder=folder,
                name=name,
                config=Source(folder / CONFIG),
                weights=tuple(map(Source, weights)),
            )
        )
    return tuple(found)


def models_of(runs: Sequence[Run]) -> Iterator[Path]:
    """The folders of models that runs have exported whole, each with its configuration."""
    for run in runs:
        model = run.folder / "model"
        if (model / CONFIG).is_file() and any(model.glob("*.safetensors")):
            yield model


def _run(folder: Path, name: str) -> Run:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no {CONFIG}, so no one can tell what was run")
    metrics = Source(folder / METRICS)
    if not metrics.data:
        raise UserError(f"{metrics.file} has no record; let the run reach its first log_every")
    states = sorted(folder.glob("checkpoints/step_*/state.json"))
    starts = folder / "run.json"
    if starts.is_file() and not _are_starts(Source(starts).data):
        raise UserError(f"{starts} is damaged; remove it, and the report does without")
    config = Source(folder / CONFIG)
    if not isinstance(config.data, dict):
        raise UserError(f"{config.file} is damaged; name the folder of a run")
    return Run(
        folder=folder,
        name=name,
        config=config,
        metrics=metrics,
        starts=Source(starts) if starts.is_file() else None,
        state=Source(states[-1]) if states else None,
    )


def _are_starts(data: object) -> bool:
    return isinstance(data, list) and all(
        isinstance(start, dict) and {"command", "started", "devices"} <= start.keys()
        for start in data
    )


def _age(folder: Path) -> float:
    """Stages of one quickstart end one after another."""
    return (folder / METRICS).stat().st_mtime


def _results(folder: Path, script: str) -> Source:
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder} holds no {RESULTS}; name a folder that {script} has finished")
    results = Source(folder / RESULTS)
    if not isinstance(results.data, dict):
        raise UserError(f"{results.file} is damaged; run {script} again")
    return results


def _check_results(folder: Path, results: Source) -> None:
    """Raises UserError if a row lacks what every writer of one has put there."""
    if "scores" in results.data:
        read_result(folder)
    rows = [*results.data.get("few_shot", []), *results.data.get("captions", {}).values()]
    if not all(isinstance(row, dict) and row.keys() >= ROW for row in rows):
        raise UserError(f"{results.file} is damaged; run the quickstart again")


def _is_score(score: object) -> bool:
    return isinstance(score, dict) and all(
        isinstance(pair, list) and len(pair) == 2 for pair in score.values()
    )


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """A short name for each folder, none for two."""
    distinct = {folder.resolve(): folder for folder in folders}
    names: dict[Path, str] = {}
    for folder in distinct:
        for length in range(LEAST, len(folder.parts) + 1):
            names[folder] = _short(folder, length)
            if [_short(other, length) for other in distinct].count(names[folder]) == 1:
                break
    return {distinct[folder]: name for folder, name in names.items()}


def _short(folder: Path, length: int) -> str:
    """Its last names: `quickstart/flamingo` of `runs/quickstart/flamingo/model`."""
    names = [name for name in folder.resolve().parts if name != "model"]
    if length == LEAST and "runs" in names[-LEAST:-1]:
        return names[-1]
    return "/".join(names[-length:])
