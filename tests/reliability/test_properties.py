"""H2: what holds for every input, tried on generated ones and compared with a slow way or with the
input itself. Properties of single rooms stand beside their other tests and count from there."""

import dataclasses
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.optim import SGD

from common.attention.attend import attend
from common.attention.masks import causal, same_document, valid_keys
from common.attention.reference import reference_attention
from common.checkpoint.export import export_safetensors
from common.checkpoint.store import CheckpointStore
from common.evaluation.metrics.average_precision import average_precision
from common.evaluation.metrics.recall import recalls
from common.training.config_json import from_json, to_json
from common.training.run import OptimizerConfig, RunConfig, ScheduleConfig
from common.training.schedule import learning_rate_factor
from tests.common.training.toy import ToyConfig, toy
from tests.flamingo import tiny

SEEDS = st.integers(0, 2**31 - 1)
LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=5)
MODEL = tiny.model()
IMAGE, PAD = 97, 0


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.proves("H2", "attention under documents and padding", 100)
@settings(max_examples=100)
@given(lengths=LENGTHS, padding=st.integers(0, 4), seed=SEEDS)
def test_attention_equals_the_reference_under_any_documents_and_padding(
    lengths: list[int], padding: int, seed: int
) -> None:
    size = sum(lengths) + padding
    documents = torch.repeat_interleave(
        torch.arange(len(lengths) + 1), torch.tensor([*lengths, padding])
    )[None]
    is_real = documents < len(lengths)
    mask = causal() & same_document(documents, documents) & valid_keys(is_real)
    q, k, v = (drawn(seed + i, 1, heads, size, 5) for i, heads in enumerate((4, 2, 2)))
    allowed = mask.dense(batch=1, num_queries=size, num_keys=size, device="cpu")
    actual = attend(q, k, v, mask=mask, backend="sdpa")
    expected = reference_attention(q, k, v, allowed=allowed, scale=5**-0.5)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual[:, :, ~is_real[0]].count_nonzero() == 0


@pytest.mark.proves("H2", "packed as alone", 100)
@settings(max_examples=100)
@given(lengths=LENGTHS, seed=SEEDS)
def test_a_packed_document_attends_as_if_alone(lengths: list[int], seed: int) -> None:
    size = sum(lengths)
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    q, k, v = (drawn(seed + i, 1, 3, size, 4) for i in range(3))
    packed = attend(q, k, v, mask=causal() & same_document(documents, documents), backend="sdpa")
    parts = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    alone = torch.cat([attend(*part, mask=causal(), backend="sdpa") for part in parts], dim=2)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


@st.composite
def prompts(draw: st.DrawFn) -> list[list[int]]:
    """Two rows of text with one to three images each."""
    rows = []
    for _ in range(2):
        text = draw(st.lists(st.integers(3, 96), min_size=4, max_size=9))
        for place in draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)):
            text.insert(place, IMAGE)
        rows.append([1, *text])
    return rows


def logits(ids: list[list[int]], images: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    counts = torch.tensor([row.count(IMAGE) for row in ids])
    with torch.no_grad():
        return MODEL(
            input_ids=torch.tensor(ids),
            attention_mask=attended,
            pixel_values=images[:, : int(counts.max())],
            num_images=counts,
        ).logits


@pytest.mark.slow
@pytest.mark.proves("H2", "padding left and right, batch as single", 100)
@settings(max_examples=100)
@given(rows=prompts(), left=st.booleans(), seed=st.integers(0, 99))
def test_a_padded_row_of_a_batch_equals_the_row_alone(
    rows: list[list[int]], left: bool, seed: int
) -> None:
    length, images = max(map(len, rows)) + 2, tiny.images(2, 3, seed=seed)
    pads = [[PAD] * (length - len(row)) for row in rows]
    padded = [pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)]
    real = torch.tensor([[0] * len(p) + [1] * len(r) for p, r in zip(pads, rows, strict=True)])
    attended = real if left else real.flip(1)
    together = logits(padded, images, attended)
    for number, row in enumerate(rows):
        alone = logits([row], images[number : number + 1], torch.ones(1, len(row)).long())[0]
        mine = together[number, -len(row) :] if left else together[number, : len(row)]
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=2e-4)


@pytest.mark.slow
@pytest.mark.proves("H2", "cached as uncached", 60)
@settings(max_examples=60)
@given(rows=prompts(), seed=st.integers(0, 99))
def test_generation_with_a_cache_writes_what_it_writes_without(
    rows: list[list[int]], seed: int
) -> None:
    row = rows[0]
    inputs = {
        "input_ids": torch.tensor([row]),
        "pixel_values": tiny.images(1, 3, seed=seed)[:, : row.count(IMAGE)],
        "max_new_tokens": 4,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": PAD,
    }
    cached, uncached = (MODEL.generate(**inputs, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, uncached)


@pytest.mark.proves("H2", "learning-rate schedule", 200)
@settings(max_examples=200)
@given(
    warmup=st.integers(0, 50),
    rest=st.integers(1, 200),
    final=st.floats(0, 1),
    kind=st.sampled_from(["cosine", "constant"]),
)
def test_a_schedule_rises_to_one_and_falls_to_its_end(
    warmup: int, rest: int, final: float, kind: str
) -> None:
    config = ScheduleConfig(warmup_steps=warmup, kind=kind, final_fraction=final)
    steps = warmup + rest
    factors = [learning_rate_factor(n, config=config, steps=steps) for n in range(1, steps + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[max(warmup - 1, 0) :] == sorted(factors[max(warmup - 1, 0) :], reverse=True)
    assert math.isclose(factors[-1], 1.0 if kind == "constant" else final, abs_tol=1e-9)
    if warmup:
        assert factors[warmup - 1] == 1.0


@pytest.mark.proves("H2", "recall and average precision", 200)
@settings(max_examples=200)
@given(size=st.integers(1, 9), k=st.integers(1, 9), seed=SEEDS)
def test_recall_and_precision_equal_counting_by_hand(size: int, k: int, seed: int) -> None:
    table = drawn(seed, size, size).round(decimals=1)  # with ties
    found = recalls(table, rows="a", columns="b", at=(k,))
    for name, scores in ((f"a_to_b_r{k}", table), (f"b_to_a_r{k}", table.T)):
        # Who ties with the right one comes before it.
        ahead = [(row >= row[own]).sum().item() - 1 for own, row in enumerate(scores)]
        assert math.isclose(found[name], sum(place < k for place in ahead) / size, abs_tol=1e-6)
    relevant = drawn(seed + 1, size) > 0
    scores = drawn(seed + 2, size)
    order = scores.argsort(descending=True).tolist()
    hits = [relevant[place].item() for place in order]
    precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(size) if hits[n]]
    if precisions:
        expected = sum(precisions) / len(precisions)
        found_precision = average_precision(scores.numpy(), relevant.numpy())
        assert math.isclose(found_precision, expected, abs_tol=1e-5)


@pytest.mark.proves("H2", "configurations as JSON", 100)
@settings(max_examples=100)
@given(
    optimizer=st.tuples(st.floats(1e-8, 1), st.floats(0, 0.99), st.floats(0, 0.99)),
    steps=st.integers(2, 10**6),
    seed=SEEDS,
    every=st.none() | st.integers(1, 99),
    broken=st.none() | st.integers(0, 99),
)
def test_a_configuration_reads_back_as_itself(
    optimizer: tuple[float, float, float],
    steps: int,
    seed: int,
    every: int | None,
    broken: int | None,
) -> None:
    rate, *betas = optimizer
    run = dataclasses.replace(
        toy(),
        task=ToyConfig(broken_position=broken),
        optimizer=OptimizerConfig(peak_learning_rate=rate, betas=tuple(betas)),
        schedule=ScheduleConfig(warmup_steps=steps // 2),
        steps=steps,
        seed=seed,
        sample_every=every,
    )
    assert from_json(RunConfig[ToyConfig], to_json(run)) == run


@pytest.mark.proves("H2", "checkpoint and export", 40)
@settings(max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6),
    limit=st.integers(1, 400),
    seed=SEEDS,
)
def test_what_is_exported_in_any_shards_is_what_was_saved(
    shapes: list[list[int]], limit: int, seed: int
) -> None:
    model = nn.Module()
    model.weights = nn.ParameterList([drawn(seed + i, *s) for i, s in enumerate(shapes)])
    with tempfile.TemporaryDirectory() as name:
        store = CheckpointStore(Path(name, "checkpoints"), keep=2)
        store.save([model], SGD(model.parameters()), step=1, facts={})
        folder = store.newest_good()
        assert folder is not None
        files = export_safetensors(folder, Path(name, "out"), max_shard_bytes=limit)
        shards = [load_file(file) for file in files if file.suffix == ".safetensors"]
    merged = {key: tensor for shard in shards for key, tensor in shard.items()}
    assert sum(map(len, shards)) == len(merged) == len(shapes)
    assert all(torch.equal(merged[key], tensor) for key, tensor in model.state_dict().items())
