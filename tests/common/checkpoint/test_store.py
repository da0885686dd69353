"""One process saves in the background and loads: what `tests/distributed` does with several."""

import copy
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from common.checkpoint import storage
from common.checkpoint.folder import list_checkpoints
from common.checkpoint.random_state import restore_random_state
from common.checkpoint.store import CheckpointStore, load_facts
from common.errors import UserError


class Small(nn.Module):
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5, dtype=torch.bfloat16)
        self.frozen = nn.Linear(2, 7).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.gate = nn.Parameter(torch.randn(1))
        self.alone = nn.Parameter(torch.randn(()))
        self.empty = nn.Parameter(torch.randn(0, 3))
        self.turned = nn.Parameter(torch.randn(6, 2).T)  # not contiguous
        self.tied = self.turned
        self.register_buffer("steps", torch.tensor([7, 8]))
        self.register_buffer("cache", torch.zeros(2), persistent=False)


def trained(make: Callable[..., Optimizer] = AdamW, **options: object) -> tuple[Small, Optimizer]:
    model = Small()
    optimizer = make([p for p in model.parameters() if p.requires_grad], lr=0.1, **options)
    step(model, optimizer)
    return model, optimizer


def step(model: Small, optimizer: Optimizer) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name != "gate":
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def assert_equal_training(one: tuple[Small, Optimizer], other: tuple[Small, Optimizer]) -> None:
    """Same weights, buffers and moments now and after one more update."""
    for _ in range(2):
        states = [model.state_dict() for model, _ in (one, other)]
        for name, tensor in states[0].items():
            assert name.startswith("frozen") or torch.equal(tensor, states[1][name]), name
        moments = [optimizer.state_dict()["state"] for _, optimizer in (one, other)]
        torch.testing.assert_close(*moments, rtol=0, atol=0)
        step(*one)
        step(*other)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (AdamW, {}),
        (AdamW, {"fused": True}),
        (AdamW, {"amsgrad": True, "capturable": False}),
        (SGD, {"momentum": 0.9}),
    ],
)
def test_what_was_saved_goes_on_as_if_it_had_never_stopped(
    make: Callable[..., Optimizer], options: dict[str, object], tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    saved, other = trained(make, **options), trained(make, **options)
    store.save([saved[0]], saved[1], step=3, facts={"epoch": 4})
    expected = torch.randn(3)
    random = store.load(store.newest_good() or tmp_path, [other[0]], other[1])
    assert_equal_training(saved, other)
    assert load_facts(tmp_path / "step_00000003")["epoch"] == 4
    assert random is not None
    restore_random_state(random)
    assert torch.equal(torch.randn(3), expected)


def test_training_goes_on_while_the_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, save_file = threading.Event(), storage.save_file

    def save_later(tensors: dict[str, Tensor], path: Path) -> None:
        assert may_write.wait(timeout=60)
        save_file(tensors, path)

    monkeypatch.setattr(storage, "save_file", save_later)
    store = CheckpointStore(tmp_path, keep=2)
    model, optimizer = trained()
    then = copy.deepcopy((model, optimizer.state_dict()))
    store.save([model], optimizer, step=1, facts={})
    step(model, optimizer)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(-1)
    assert not list_checkpoints(tmp_path)
    may_write.set()
    store.wait()
    store.load(tmp_path / "step_00000001", [model], optimizer)
    before, before_optimizer = trained()
    before.load_state_dict(then[0].state_dict())
    before_optimizer.load_state_dict(then[1])
    assert_equal_training((model, optimizer), (before, before_optimizer))


@pytest.mark.parametrize("ask", ["save", "wait", "newest_good"])
def test_a_failure_in_the_background_is_told_once_and_the_older_checkpoint_is_kept(
    ask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    model, optimizer = trained()
    store.save([model], optimizer, step=1, facts={})
    store.wait()
    with monkeypatch.context() as full_disk:

        def fail(path: Path) -> None:
            raise OSError(28, os.strerror(28))

        full_disk.setattr(storage, "seal_file", fail)
        store.save([model], optimizer, step=2, facts={})
        asked = {
            "save": lambda: store.save([model], optimizer, step=3, facts={}),
            "wait": store.wait,
            "newest_good": store.newest_good,
        }
        with pytest.raises(UserError, match=r"was not written \(rank 0: OSError: .*No space left"):
            asked[ask]()
    assert store.newest_good() == tmp_path / "step_00000001"
    store.save([model], optimizer, step=2, facts={})
    assert store.newest_good() == tmp_path / "step_00000002"
    assert not list(tmp_path.glob(".*"))


def test_a_step_saved_twice_is_what_was_saved_last(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    (model, optimizer), other = trained(), trained()
    store.save([model], optimizer, step=5, facts={"turn": 1})
    step(model, optimizer)
    store.save([model], optimizer, step=5, facts={"turn": 2})
    newest = store.newest_good()
    assert newest == tmp_path / "step_00000005"
    assert load_facts(newest)["turn"] == 2
    store.load(newest, [other[0]], other[1])
    assert_equal_training((model, optimizer), other)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


@pytest.mark.proves("R8", "the newest two of three", 1)
def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for number in (1, 2, 3):
        store.save(*pair(trained()), step=number, facts={})
    store.wait()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def pair(state: tuple[Small, Optimizer]) -> tuple[list[nn.Module], Optimizer]:
    return [state[0]], state[1]


def widen(model: Small) -> None:
    model.first = nn.Linear(3, 6, dtype=torch.bfloat16)


def change_type(model: Small) -> None:
    model.first = nn.Linear(3, 5)


def add(model: Small) -> None:
    model.added = nn.Parameter(torch.zeros(2))


def remove(model: Small) -> None:
    del model.gate


def freeze(model: Small) -> None:
    model.first.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (widen, r"model.first.weight is torch.bfloat16 \(5, 3\), the model's .* \(6, 3\)"),
        (change_type, r"model.first.weight is torch.bfloat16 .*, the model's torch.float32"),
        (add, r"missing \['model.added'\] \(1 in all\), unknown \[\]"),
        (remove, r"missing \[\] .*, unknown \['model.gate'\]"),
        (freeze, r"unknown \['model.first.weight', 'optimizer.first.weight.exp_avg', .*"),
    ],
)
def test_another_model_is_refused_by_name_and_left_alone(
    change: Callable[[Small], None], message: str, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(*pair(trained()), step=1, facts={})
    store.wait()
    model = Small()
    change(model)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        store.load(tmp_path / "step_00000001", [model], optimizer)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not optimizer.state


def test_names_are_those_of_the_plain_model_and_frozen_parameters_are_not_stored(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    model, optimizer = trained()
    model.first = torch.compile(model.first)
    store.save([model], optimizer, step=1, facts={})
    store.wait()
    names = load_file(tmp_path / "step_00000001" / "tensors_00000.safetensors").keys()
    weights = {name.removeprefix("model.") for name in names if name.startswith("model.")}
    known = {name for name in Small().state_dict() if not name.startswith("frozen")}
    assert weights == known - {"tied"}


def test_a_file_that_vanishes_after_verification_is_told_in_one_line(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    model, optimizer = trained()
    store.save([model], optimizer, step=1, facts={})
    folder = store.newest_good()
    assert folder is not None
    (folder / "tensors_00000.safetensors").unlink()
    with pytest.raises(UserError, match=r"step_00000001 was not read \(rank 0: FileNotFoundError"):
        store.load(folder, [model], optimizer)


def test_a_folder_of_an_earlier_version_is_refused_in_one_line(tmp_path: Path) -> None:
    model, optimizer = trained()
    with pytest.raises(UserError, match=r"has no index.json"):
        CheckpointStore(tmp_path, keep=2).load(tmp_path, [model], optimizer)
