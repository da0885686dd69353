"""The path of a batch is traced in code that really ran."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.evaluation.few_shot import normalise
from common.objectives.language import next_token_loss
from scripts.house_numbers import batch_path


@dataclass(frozen=True)
class Batch:
    logits: Tensor
    labels: Tensor


def test_a_file_that_ran_without_the_batch_did_not_handle_it() -> None:
    batch = Batch(logits=torch.randn(2, 5, 7), labels=torch.randint(7, (2, 5)))

    def update() -> None:
        normalise("Red.")
        next_token_loss(batch.logits, batch.labels)

    path = batch_path(update, batch)
    assert path.executed == ["common/evaluation/few_shot.py", "common/objectives/language.py"]
    assert path.handled == ["common/objectives/language.py"]
