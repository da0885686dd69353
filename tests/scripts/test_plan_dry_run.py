"""An update in a world of fake ranks is what was planned by arithmetic."""

import json
from pathlib import Path

import pytest

from scripts.plan import main

RUNS = {
    "flare_tiny": ["--gpus", "4", "--seconds", "0.5", "--micro-batch", "4"],
    "flamingo_tiny": ["--gpus", "6", "--replicate", "3", "--recompute", "full"],
    "flamingo_tiny_vision": ["--gpus", "3", "--micro-batch", "32"],
    "flamingo_tiny_language": ["--gpus", "2", "--reshard-after-forward", "False"],
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(RUNS))
def test_a_fake_world_holds_and_does_what_was_planned(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert main([recipe, *RUNS[recipe], "--dry-run", "--json", str(file)]) == 0
    plan = json.loads(file.read_text())
    found = plan["dry_run"]
    (memory,) = plan["memory"]
    kinds = memory["kinds"]
    assert found["weights"]["tensors"] == found["weights"]["sharded"]
    assert found["weights"]["numbers"] == plan["parameters"]
    assert found["gradients"]["numbers"] == plan["trained"]
    for part, planned in (
        ("weights", kinds["weights, shards"] + kinds["frozen weights, shards"]),
        ("gradients", kinds["gradients, shards"]),
        ("optimizer", kinds["Adam moments"]),
    ):
        assert found[part]["bytes_here"] == planned
    rows = plan["layout"]["micro_batch"]
    work = sum(component["hardware"] for component in plan["flops_per_row"].values())
    assert found["flops"] == pytest.approx(work * rows, rel=0.01)
    most = memory["total"] - kinds["reserved"]
    assert sum(found["peak"].values()) == pytest.approx(most, rel=0.2)


@pytest.mark.slow
def test_the_first_rank_of_a_pipeline_holds_its_stage_and_its_share_of_the_rest(
    tmp_path: Path,
) -> None:
    file = tmp_path / "plan.json"
    options = ["--gpus", "4", "--pipeline", "2", "--seconds", "0.5", "--micro-batch", "8"]
    assert main(["flare_tiny", *options, "--dry-run", "--json", str(file)]) == 0
    plan = json.loads(file.read_text())
    found, first = plan["dry_run"], plan["memory"][0]["kinds"]
    assert found["weights"]["tensors"] == found["weights"]["sharded"]
    held = found["weights"]["bytes_here"]
    assert held == first["weights, shards"] + first["frozen weights, shards"]
    assert found["optimizer"]["bytes_here"] == first["Adam moments"]
