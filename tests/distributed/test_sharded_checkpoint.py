"""Checkpoints by several ranks: any number of ranks, or one, reads what any other has written."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.checkpoint import storage
from common.checkpoint.export import export_safetensors
from common.checkpoint.folder import list_checkpoints, newest_good_checkpoint
from common.checkpoint.ranks import all_ranks
from common.checkpoint.store import CheckpointStore
from common.checkpoint.tensors import frozen_sha256
from common.errors import UserError
from tests.distributed.sharded_checkpoint import (
    Toy,
    assert_loads,
    assert_same_bits,
    optimizer_of,
    run_ranks,
    save_trained,
    sharded_toy,
    trained_toy,
    whole_state,
)

pytestmark = pytest.mark.slow
BY_ONE, BY_FOUR, BY_TWICE_TWO, BY_TWO, BY_TWO_ALIKE = 1, 4, 22, 2, 11


def four_ranks(rank: int, folder: Path) -> None:
    store = CheckpointStore(folder, keep=9)
    save_trained(store, (4,), step=BY_FOUR)
    save_trained(store, (2, 2), step=BY_TWICE_TWO)
    for step in (BY_ONE, BY_FOUR, BY_TWICE_TWO):
        assert_loads(store, step, (4,))
        assert_loads(store, step, (2, 2))
    digest = frozen_sha256([sharded_toy((2, 2), seed=5)], all_ranks())
    (folder / f"frozen_{rank}").write_text(digest)


def two_ranks(rank: int, folder: Path) -> None:
    store = CheckpointStore(folder, keep=9)
    save_trained(store, (2,), step=BY_TWO)
    save_trained(store, (), step=BY_TWO_ALIKE)
    for step in (BY_ONE, BY_FOUR, BY_TWICE_TWO, BY_TWO, BY_TWO_ALIKE):
        assert_loads(store, step, (2,))
    fall_back_and_refuse(rank, folder / "damaged")
    save_stages(rank, folder / "stages")


def fall_back_and_refuse(rank: int, folder: Path) -> None:
    store = CheckpointStore(folder, keep=2)
    save_trained(store, (2,), step=1)
    save_trained(store, (2,), step=2)
    newest = folder / "step_00000002" / "tensors_00001.safetensors"
    if store.ranks.is_main:
        newest.write_bytes(newest.read_bytes()[:-1])
    assert store.newest_good() == folder / "step_00000001"
    model, optimizer = trained_toy((2,), seed=1)
    model.register_parameter(f"only_on_{rank}", torch.nn.Parameter(torch.zeros(2)))
    before = whole_state(model, optimizer)
    with pytest.raises(UserError, match=r"missing \['model.only_on_0', 'model.only_on_1'\]"):
        store.load(folder / "step_00000001", [model], optimizer)
    assert_same_bits(whole_state(model, optimizer), before)


class Stage(torch.nn.Module):
    """One block of the toy under its name in the whole."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleDict({str(number): sharded_toy((), seed=3).blocks[number]})


def save_stages(rank: int, folder: Path) -> None:
    stage = Stage(rank)
    store = CheckpointStore(folder, keep=2)
    optimizer = optimizer_of(stage)
    for parameter in stage.parameters():
        parameter.grad = parameter.detach() * 2
    optimizer.step()
    torch.save(whole_state(stage, optimizer), folder / f"stage_{rank}.pt")
    torch.manual_seed(rank)
    store.save([stage], optimizer, step=3, facts={})
    expected = torch.randn(5)
    random = store.load(store.newest_good() or folder, [stage], optimizer)
    assert random is not None
    torch.set_rng_state(random.tensors["cpu"])
    assert torch.equal(torch.randn(5), expected)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint by each number of ranks, each read by every other."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("damaged", "stages"):
        (folder / name).mkdir()
    save_trained(CheckpointStore(folder, keep=9), (), step=BY_ONE)
    assert run_ranks(four_ranks, 4, folder) == [0] * 4
    assert run_ranks(two_ranks, 2, folder) == [0] * 2
    return folder


@pytest.mark.parametrize("step", [BY_ONE, BY_TWO, BY_FOUR, BY_TWICE_TWO, BY_TWO_ALIKE])
def test_a_single_process_reads_what_any_number_of_ranks_has_written(
    step: int, checkpoints: Path
) -> None:
    assert_loads(CheckpointStore(checkpoints, keep=9), step, ())


def test_every_rank_writes_a_share_and_no_byte_twice(checkpoints: Path) -> None:
    files = sorted((checkpoints / f"step_{BY_TWICE_TWO:08d}").glob("tensors_*"))
    contents = [load_file(path) for path in files]
    assert len(contents) == 4
    assert all(any(name.startswith("model.blocks") for name in part) for part in contents)
    written = sum(t.nbytes for part in contents for n, t in part.items() if "random" not in n)
    expected = torch.load(checkpoints / f"expected_{BY_TWICE_TWO}.pt")
    assert written == sum(tensor.nbytes for tensor in expected.values())


def test_of_ranks_with_the_whole_model_the_first_writes_it(checkpoints: Path) -> None:
    files = sorted((checkpoints / f"step_{BY_TWO_ALIKE:08d}").glob("tensors_*"))
    assert len(files) == 2
    assert load_file(files[1]).keys() == {"random.1.cpu"}


def test_the_frozen_part_has_one_digest_however_it_is_sharded(checkpoints: Path) -> None:
    digests = {(checkpoints / f"frozen_{rank}").read_text() for rank in range(4)}
    assert digests == {frozen_sha256([sharded_toy((), seed=5)], all_ranks())}
    assert digests != {frozen_sha256([sharded_toy((), seed=6)], all_ranks())}


@pytest.mark.parametrize("max_shard_bytes", [1, 700, 10**9])
def test_the_export_has_the_weights_bit_for_bit(
    max_shard_bytes: int, checkpoints: Path, tmp_path: Path
) -> None:
    folder = checkpoints / f"step_{BY_FOUR:08d}"
    paths = export_safetensors(folder, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in paths if path.suffix == ".safetensors"}
    found = {name: shards[file][name] for name, file in index["weight_map"].items()}
    expected = {
        name.removeprefix("model."): tensor
        for name, tensor in torch.load(checkpoints / f"expected_{BY_FOUR}.pt").items()
        if name.startswith("model.")
    }
    assert_same_bits(found, expected)
    assert sum(len(shard) for shard in shards.values()) == len(expected)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    sizes = [[t.nbytes for t in shard.values()] for shard in shards.values()]
    assert all(sum(part) <= max_shard_bytes or len(part) == 1 for part in sizes)
    assert (len(shards) == 1) == (max_shard_bytes == 10**9)
    assert (len(shards) == len(expected)) == (max_shard_bytes == 1)
    with pytest.raises(UserError, match="is not empty"):
        export_safetensors(folder, tmp_path / "out", max_shard_bytes=max_shard_bytes)


def test_any_damaged_file_is_noticed_before_a_weight_is_read(
    checkpoints: Path, tmp_path: Path
) -> None:
    good, bad = checkpoints / f"step_{BY_FOUR:08d}", checkpoints / f"step_{BY_TWICE_TWO:08d}"
    names = sorted(path.name for path in bad.iterdir())
    assert len(names) == 7
    for name in names:
        for damage in ("cut", "flipped"):
            run = tmp_path / f"{name}_{damage}"
            shutil.copytree(good, run / good.name)
            shutil.copytree(bad, run / bad.name)
            content = bytearray((run / bad.name / name).read_bytes())
            if damage == "cut":
                content.pop()
            else:
                content[len(content) * 2 // 3] ^= 8
            (run / bad.name / name).write_bytes(content)
            with pytest.raises(UserError, match="export another checkpoint"):
                export_safetensors(run / bad.name, run / "out", max_shard_bytes=10**9)
            assert CheckpointStore(run, keep=2).newest_good() == run / good.name
            assert (run / f"damaged_{bad.name}").is_dir()


def test_all_ranks_fall_back_and_refuse_alike(checkpoints: Path) -> None:
    # Each has asserted its own part in `fall_back_and_refuse`.
    found = [path.name for path in list_checkpoints(checkpoints / "damaged")]
    assert found == ["step_00000001"]


def test_stages_of_a_pipeline_are_read_as_one_model(checkpoints: Path) -> None:
    folder = checkpoints / "stages"
    stages = [Stage(0), Stage(1)]
    optimizer = torch.optim.AdamW([p for s in stages for p in s.parameters()], fused=True)
    CheckpointStore(folder, keep=2).load(folder / "step_00000003", stages, optimizer)
    for rank, stage in enumerate(stages):
        assert_same_bits(whole_state(stage, optimizer), torch.load(folder / f"stage_{rank}.pt"))


def die_in_the_second_save(rank: int, folder: Path) -> None:
    store = CheckpointStore(folder, keep=2)
    save_trained(store, (2,), step=1)
    victim, moment = (folder / "plan").read_text().split()
    if rank == int(victim):
        # Before its tensors are flushed, or, on the main rank, when all but the rename is done.
        setattr(storage, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="was not written: another rank has died"):
        save_trained(store, (2,), step=2)


@pytest.mark.parametrize("plan", ["1 seal_file", "0 publish_folder"])
def test_a_rank_killed_during_a_save_leaves_the_checkpoint_before_it(
    plan: str, tmp_path: Path
) -> None:
    (tmp_path / "plan").write_text(plan)
    statuses = run_ranks(die_in_the_second_save, 2, tmp_path)
    assert statuses == ([0, -signal.SIGKILL] if plan[0] == "1" else [-signal.SIGKILL, 0])
    assert (tmp_path / ".step_00000002.unfinished").is_dir()
    assert newest_good_checkpoint(tmp_path) == tmp_path / "step_00000001"
    store = CheckpointStore(tmp_path, keep=2)
    assert_loads(store, 1, ())
    save_trained(store, (), step=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000002", "step_00000001"]
    assert not list(tmp_path.glob(".step*"))


def test_the_toy_has_what_makes_sharding_hard() -> None:
    shapes = {tuple(parameter.shape) for parameter in Toy().parameters()}
    assert {(1,), (2,), (9, 7)} <= shapes
