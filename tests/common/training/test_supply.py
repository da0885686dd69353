"""What the data gave, counted over ranks and checkpoints, and the end of a run on bad data."""

import json

import pytest

from common.data.faults import Cause
from common.data.feed import Fault, Supply
from common.errors import UserError
from common.training.supply import FEWEST_FAULTS, SupplyTally


def tally(*, max_fault_share: float = 0.1) -> SupplyTally:
    return SupplyTally(max_fault_share=max_fault_share, say=lambda line: None)


def supply(name: str, *, documents: int, epoch: int = 0, cut: int = 0, **faults: int) -> Supply:
    causes: dict[str, Cause] = {"corrupt": "image_corrupt", "silent": "audio_silent"}
    return Supply(
        documents={name: documents},
        epochs={name: epoch},
        cut={name: cut},
        faults=tuple(
            Fault(corpus=name, cause=causes[cause], message=f"{cause} {number}")
            for cause, count in faults.items()
            for number in range(count)
        ),
    )


def test_too_many_faults_end_the_run_with_their_causes() -> None:
    counted = tally(max_fault_share=0.1)
    counted.add(supply("web", documents=200, corrupt=13, silent=7))
    counted.add(supply("clean", documents=10))
    counted.figures([counted.counts])  # exactly the share that is allowed
    counted.add(supply("web", documents=1, corrupt=1))
    with pytest.raises(UserError, match=r"21 of the last 201 samples of web") as caught:
        counted.figures([counted.counts])
    assert "'image_corrupt': 14, 'audio_silent': 7" in str(caught.value)
    assert "max_fault_share=0.1;" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_few_faults_at_the_start_end_no_run() -> None:
    counted = tally(max_fault_share=0.1)
    counted.add(supply("web", documents=FEWEST_FAULTS, corrupt=FEWEST_FAULTS - 1))
    assert counted.figures([counted.counts])["data/web/faults/image_corrupt"] == FEWEST_FAULTS - 1


def test_faults_of_an_earlier_block_are_not_held_against_a_later_one() -> None:
    counted = tally(max_fault_share=0.01)
    counted.add(supply("web", documents=10_000, corrupt=100))
    counted.figures([counted.counts])
    counted.add(supply("web", documents=50, silent=FEWEST_FAULTS - 1))
    counted.figures([counted.counts])
    counted.add(supply("web", documents=1, silent=1))
    with pytest.raises(UserError, match="10 of the last 51 samples of web"):
        counted.figures([counted.counts])


def test_counts_of_two_ranks_add_up_and_survive_a_checkpoint() -> None:
    ranks = [tally(max_fault_share=0.5), tally(max_fault_share=0.5)]
    ranks[0].add(supply("web", documents=5, epoch=2, cut=1, corrupt=3))
    ranks[1].add(supply("web", documents=7, epoch=1, corrupt=1, silent=2))
    ranks[1].add(supply("radio", documents=11, silent=4))
    expected = {
        "data/web/documents": 12,
        "data/web/cut": 1,
        "data/web/epoch": 2,
        "data/web/faults/image_corrupt": 4,
        "data/web/faults/audio_silent": 2,
        "data/radio/documents": 11,
        "data/radio/cut": 0,
        "data/radio/epoch": 0,
        "data/radio/faults/audio_silent": 4,
    }
    everyone = [rank.counts for rank in ranks]
    assert ranks[0].figures(everyone) == expected
    saved = json.loads(json.dumps(ranks[0].to_json(everyone)))

    resumed = [tally(max_fault_share=0.5) for _ in range(3)]  # on three ranks now
    for number, rank in enumerate(resumed):
        rank.load(saved, is_main=number == 0)
    resumed[2].add(supply("web", documents=1, epoch=3, silent=1))
    later = resumed[0].figures([rank.counts for rank in resumed])
    changed = {"documents": 13, "epoch": 3, "faults/audio_silent": 3}
    assert later == expected | {f"data/web/{what}": number for what, number in changed.items()}


def test_an_epoch_is_told_once_and_the_first_faults_are_shown() -> None:
    said: list[str] = []
    counted = SupplyTally(max_fault_share=0.5, say=said.append)
    counted.add(supply("web", documents=40, epoch=1, cut=2, corrupt=4))
    counted.figures([counted.counts])
    counted.figures([counted.counts])
    assert said == [
        *(f"replaced a sample of web: corrupt {number}" for number in range(3)),
        "web: epoch 2 begins after 40 documents; cut 2; replaced: image_corrupt 4",
    ]
