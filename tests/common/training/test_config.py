import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from common.errors import UserError
from common.training.config_json import flatten, from_json, to_json
from common.training.run import CheckpointConfig, OptimizerConfig, RunConfig, ScheduleConfig
from common.training.schedule import learning_rate_factor


@dataclass(frozen=True, kw_only=True)
class Square:
    side: float


@dataclass(frozen=True, kw_only=True)
class Disc:
    radius: float


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    shape: Square | Disc
    folder: Path | None
    sizes: tuple[int, ...]
    mean: tuple[float, float]
    mode: Literal["a", "b"]
    options: dict[str, int]


def a_run() -> RunConfig[TaskConfig]:
    return RunConfig(
        task=TaskConfig(
            shape=Disc(radius=2.5),
            folder=Path("data/set"),
            sizes=(3, 5, 7),
            mean=(0.1, 1 / 3),
            mode="b",
            options={"depth": 4},
        ),
        optimizer=OptimizerConfig(peak_learning_rate=1e-4),
        schedule=ScheduleConfig(warmup_steps=5, final_fraction=0.1),
        steps=25,
    )


def test_a_config_comes_back_from_json_as_it_was() -> None:
    text = json.dumps(to_json(a_run()))
    assert from_json(RunConfig[TaskConfig], json.loads(text)) == a_run()


def test_an_unknown_key_is_refused_with_the_nearest_name() -> None:
    data = to_json(a_run())
    data["optimizer"]["peak_lerning_rate"] = data["optimizer"].pop("peak_learning_rate")
    with pytest.raises(UserError, match=r"optimizer.peak_lerning_rate .* peak_learning_rate\?"):
        from_json(RunConfig[TaskConfig], data)


def test_a_value_of_the_wrong_type_is_refused_with_its_path() -> None:
    data = to_json(a_run())
    data["task"]["sizes"][1] = "five"
    with pytest.raises(UserError, match=r"task.sizes\[1\] must be of type int, not 'five'"):
        from_json(RunConfig[TaskConfig], data)


def test_flattening_names_every_value_by_its_path() -> None:
    flat = flatten(to_json(a_run()))
    assert flat["task.shape.radius"] == 2.5
    assert flat["task.sizes"] == [3, 5, 7]


def test_impossible_values_are_refused_when_the_config_is_made() -> None:
    with pytest.raises(UserError, match="keep must be at least 2"):
        CheckpointConfig(keep=1)
    with pytest.raises(UserError, match=r"warmup_steps \(5\) must be smaller than steps \(5\)"):
        dataclasses.replace(a_run(), steps=5)
    with pytest.raises(UserError, match="stop_patience needs validations"):
        dataclasses.replace(a_run(), stop_patience=2)


def test_the_cosine_schedule_has_the_values_of_the_formula() -> None:
    config = ScheduleConfig(warmup_steps=4, final_fraction=0.2)
    factors = [learning_rate_factor(u, config=config, steps=12) for u in (1, 2, 4, 8, 12)]
    assert factors == pytest.approx([0.25, 0.5, 1.0, 0.6, 0.2])


def test_the_constant_schedule_stays_at_its_peak() -> None:
    config = ScheduleConfig(warmup_steps=2, kind="constant")
    factors = [learning_rate_factor(u, config=config, steps=9) for u in (1, 2, 3, 9)]
    assert factors == [0.5, 1.0, 1.0, 1.0]


def test_without_warm_up_the_first_update_is_near_the_peak() -> None:
    config = ScheduleConfig(warmup_steps=0)
    assert 0.9 < learning_rate_factor(1, config=config, steps=20) < 1
