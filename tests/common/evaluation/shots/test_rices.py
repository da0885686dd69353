"""RICES ranks as brute force does, shows the most similar last and never the query's own image."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.evaluation.shots import rices
from common.evaluation.shots.demonstrations import Choose
from common.evaluation.shots.exemplars import Exemplar
from common.evaluation.shots.rices import nearest, rices_demonstrations
from common.evaluation.work import Workplace
from tests.common.evaluation.shots.writers import exemplars


def test_ranks_in_pieces_are_those_of_one_stable_sort_with_many_ties(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rices, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(rices, "COLUMNS_AT_ONCE", 7)
    generator = torch.Generator().manual_seed(0)
    # Small whole numbers: products are exact, and equal ones abound.
    queries = torch.randint(-1, 2, (11, 3), generator=generator).float()
    pool = torch.randint(-1, 2, (37, 3), generator=generator).float()
    expected = (queries @ pool.T).argsort(dim=1, descending=True, stable=True)
    assert len(torch.unique(queries @ pool.T)) < 8
    for num in (0, 1, 5, 30, 37):
        assert nearest(queries, pool, num=num).equal(expected[:, :num])
    assert nearest(queries, pool, num=50).equal(expected)


def choose(queries: list[Exemplar], pool: list[Exemplar], folder: Path) -> Choose:
    def embed(paths: Sequence[Path]) -> Tensor:
        angles = torch.tensor([float(path.stem.partition("_")[0]) for path in paths]) / 10
        return F.normalize(torch.stack([angles.cos(), angles.sin()], dim=1), dim=1)

    work = Workplace(folder=folder, batch_size=3)
    return rices_demonstrations(queries, pool, most=5, embed=embed, work=work)


def test_the_most_similar_comes_last_and_all_examples_of_one_image_together(tmp_path: Path) -> None:
    """The picture 0 is the query's; 1, 2, ... are less and less similar to it."""
    query, *pool = exemplars(tmp_path, 9)
    pool = [example for one in pool for example in (one, replace(one, key=f"{one.key} again"))]
    pick = choose([query], pool[::-1], tmp_path / "work")
    (chosen,) = pick([0], 5)
    assert [example.key for example in chosen] == ["k3 again", "k2", "k2 again", "k1", "k1 again"]
    assert pick([0], 3) == [chosen[2:]]
    assert pick([0, 0], 0) == [(), ()]


def test_the_own_image_is_never_shown_however_often_the_pool_holds_it(tmp_path: Path) -> None:
    query, *pool = exemplars(tmp_path, 7)
    copies = [
        replace(
            query, key=f"c{number}", medium_id=f"c{number}", medium=tmp_path / f"0_{number}.png"
        )
        for number in range(9)
    ]
    for copy in copies:
        shutil.copy(query.medium, copy.medium)
    renamed = replace(pool[0], key="same number", medium_id=query.medium_id)
    pick = choose([query], [*copies, query, renamed, *pool[1:]], tmp_path / "work")
    (chosen,) = pick([0], 4)
    assert [example.key for example in chosen] == ["k5", "k4", "k3", "k2"]
    with pytest.raises(UserError, match="6 demonstrations were asked for, but 5 examples"):
        pick([0], 6)
