"""What planning counts without data is what real models do with data."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import flamingo.footprint
import flare.footprint
from common.errors import UserError
from common.parallel.plan.claims import Claim, contradictions
from common.parallel.plan.cluster import GIB, GPUS, Layout
from common.parallel.plan.counting import Cost
from common.parallel.plan.footprint import Footprint, cost_of, cost_of_tower
from common.parallel.plan.memory import memory_of_stages
from common.parallel.plan.plan import make_plan, nearest_fits
from common.parallel.plan.stages import balanced_stages
from common.parallel.plan.throughput import bubbles
from common.parallel.recompute import RECOMPUTE, Recompute, recompute_blocks
from flamingo.language_model import decoder_layers
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.presets import PRESETS as FLAMINGO_PRESETS
from flamingo.presets import count_parameters as count_flamingo
from flamingo.presets import flamingo_tiny
from flamingo.recipes import RECIPES as FLAMINGO
from flare.decoder import hybrid_mask, positions_in_documents
from flare.model import FlareForConditionalGeneration
from flare.presets import PRESETS as FLARE_PRESETS
from flare.presets import count_parameters as count_flare
from flare.presets import flare_tiny
from flare.recipes import RECIPES as FLARE

ROWS, SAMPLES = 3, 7000
TINY = Layout(gpus=6, gpu="a100-80gb", shard=3, pipeline=2, reshard_after_forward=False)


@cache
def flare_footprint() -> Footprint:
    return flare.footprint.footprint(
        FLARE["flare_tiny"](), seconds=SAMPLES / 16_000, dtype=torch.float32
    )


@cache
def flamingo_footprint() -> Footprint:
    return flamingo.footprint.footprint(
        FLAMINGO["flamingo_tiny"](), images_per_row=1, dtype=torch.float32
    )


# --- parameters and work -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flare_tiny", "flare_13b"])
def test_flare_s_footprint_holds_every_parameter(name: str) -> None:
    run = FLARE[name]()
    counted = flare.footprint.footprint(run)
    assert counted.parameters == count_flare(FLARE_PRESETS[run.task.model]())["total"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flamingo_tiny", "flamingo_9b", "flamingo_80b"])
def test_flamingo_s_footprint_holds_every_parameter_and_knows_the_frozen_ones(name: str) -> None:
    counted = flamingo.footprint.footprint(FLAMINGO[name]())
    real = count_flamingo(FLAMINGO_PRESETS[name]())
    assert (counted.parameters, counted.trained) == (real["total"], real["trained"])


@pytest.mark.slow
def test_one_layer_times_their_number_is_the_work_of_the_whole_flare() -> None:
    counted = flare_footprint()
    model = FlareForConditionalGeneration(flare_tiny()).train()
    image, clip = (model.vision_encoder, model.vision_projector), (model.audio_encoder,)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    costs = [cost_of_tower(tower, 2, "none") for tower in counted.towers]

    with counted_work() as count:
        features = image[0](pixels)
        tokens, summary = image[1](features)
        differentiate(tokens, model.image_vector(summary))
    assert_close(count(), costs[0].useful_flops + costs[1].useful_flops)

    with counted_work() as count:
        features, _ = clip[0](torch.randn(2, SAMPLES), torch.full((2,), SAMPLES))
    assert_close(count(), costs[2].forward_flops)
    # Torch counts the gradient of a grouped convolution's weights as if it were not grouped.
    assert costs[2].backward_flops == pytest.approx(2 * costs[2].forward_flops, rel=0.15)

    features = features.detach().requires_grad_()
    with counted_work() as count:
        tokens, summary = model.audio_projector(features)
        differentiate(tokens, model.audio_vector(summary))
    assert_close(count(), costs[3].useful_flops)

    with counted_work() as count:
        differentiate(decode(model, rows=ROWS, length=counted.tokens_per_row))
    layers = [cost_of(unit, ROWS, "none").useful_flops for (unit,) in counted.layers]
    assert_close(count(), sum(layers))


@pytest.mark.slow
def test_one_layer_times_their_number_is_the_work_of_the_whole_flamingo() -> None:
    counted = flamingo_footprint()
    model = FlamingoForConditionalGeneration(flamingo_tiny()).train()
    with counted_work() as count:
        language_loss(model, rows=ROWS, length=counted.tokens_per_row).backward()
    assert_close(count(), sum(cost.useful_flops for cost in costs_of_all(counted, "none")))


@pytest.mark.slow
def test_frozen_layers_cost_four_operations_per_parameter_and_trained_ones_six() -> None:
    counted = flamingo.footprint.footprint(FLAMINGO["flamingo_3b"](), images_per_row=2)
    gated, layer = counted.layers[0]
    tokens = counted.tokens_per_row
    width, frozen = counted.hidden_dim, cost_of(layer, 1, "none")
    attention = 4 * tokens * tokens * width
    assert frozen.forward_flops == pytest.approx(
        2 * layer.parameters * tokens + attention, rel=0.01
    )
    assert frozen.backward_flops == pytest.approx(
        2 * layer.parameters * tokens + 2 * attention, rel=0.01
    )
    trained = cost_of(gated, 1, "none")
    # Keys and values are those of 64 latents for each image, not of every token.
    of_media = 2 * 1536 * width
    expected = 6 * (gated.parameters - of_media) * tokens + 6 * of_media * 2 * 64
    assert trained.useful_flops == pytest.approx(expected, rel=0.02)
    vision = cost_of_tower(counted.towers[0], 2, "none")
    assert vision.forward_flops > 0
    assert vision.backward_flops == vision.kept_bytes == 0


# --- activations ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_decoder_block_keeps_what_was_predicted() -> None:
    counted = flare_footprint()
    model = FlareForConditionalGeneration(flare_tiny()).train()
    with kept_bytes(model) as measured:
        output = decode(model, rows=ROWS, length=counted.tokens_per_row)
    predicted = sum(cost_of(unit, ROWS, "none", "cpu").kept_bytes for (unit,) in counted.layers)
    assert predicted == pytest.approx(measured(), rel=0.15)
    assert output.requires_grad


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_whole_flamingo_keeps_what_was_predicted(recompute: Recompute) -> None:
    counted = flamingo_footprint()
    model = FlamingoForConditionalGeneration(flamingo_tiny()).train()
    layers = decoder_layers(model.language_model)
    blocks = [*layers, *model.gated_blocks, *model.resampler.layers]
    recompute_blocks(blocks, recompute)
    with kept_bytes(model, inputs_of=blocks if recompute == "full" else []) as measured:
        loss = language_loss(model, rows=ROWS, length=counted.tokens_per_row)
    predicted = sum(cost.kept_bytes for cost in costs_of_all(counted, recompute))
    assert predicted == pytest.approx(measured(), rel=0.15)
    loss.backward()


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_recomputation_trades_memory_for_work(recompute: Recompute) -> None:
    (unit,) = flare_footprint().layers[0]
    before, after = cost_of(unit, ROWS, "none"), cost_of(unit, ROWS, recompute)
    assert after.useful_flops == before.useful_flops
    shares = {"none": (0.0, 1.0), "selective": (0.5, 0.5), "full": (1.0, 0.1)}
    repeated, kept = shares[recompute]
    assert after.repeated_flops <= repeated * before.forward_flops
    assert (after.repeated_flops > 0) == (recompute != "none")
    assert after.kept_bytes <= kept * before.kept_bytes


# --- memory, stages, time ------------------------------------------------------------------


def test_a_stage_of_frozen_layers_has_no_gradient_and_no_optimizer_state() -> None:
    counted = flamingo_footprint()
    (_, layer), head = counted.layers[0], counted.head
    assert head is not None
    still = replace(head, weights=tuple(w._replace(trained=False) for w in head.weights))
    frozen = replace(
        counted, towers=(), layers=((layer,),) * 4, head=still, embedding=None, root_bytes=0
    )
    for stage in memory_of_stages(frozen, TINY, [range(2), range(2, 4)]):
        for kind, size in stage.kinds.items():
            if "gradients" in kind or "Adam" in kind or kind == "weights, shards":
                assert size == 0, kind
        assert stage.kinds["frozen weights, shards"] > 0


@pytest.mark.slow
def test_states_are_shared_by_the_ranks_of_a_stage_and_gradients_wait_whole() -> None:
    counted = flare_footprint()
    stage, last = memory_of_stages(counted, TINY, [range(1), range(1, 4)])
    (block,) = counted.layers[0]
    shared = [tower.whole for tower in counted.towers] + [counted.embedding, counted.head]
    divided = [(w, 3) for w in block.weights]
    divided += [(w, 6) for unit in shared if unit is not None for w in unit.weights]
    own = sum(4 * math.ceil(w.shape[0] / ranks) * w.numel / w.shape[0] for w, ranks in divided)
    assert stage.kinds["weights, shards"] + stage.kinds["frozen weights, shards"] == own
    trained = [(w, ranks) for w, ranks in divided if w.trained]
    moments = sum(8 * w.held(ranks) + 4 for w, ranks in trained)  # with a count of steps
    assert stage.kinds["Adam moments"] == moments
    assert stage.kinds["gradients, unreduced fp32"] == 4 * block.trained
    kept = cost_of(block, 2, "none").kept_bytes  # of a row and its captions
    assert stage.kinds["activations of layers"] == 2 * kept  # of two micro-batches
    assert last.kinds["activations of layers"] == 3 * kept


@pytest.mark.parametrize(("num_layers", "num_stages"), [(1, 1), (5, 5), (7, 3), (9, 4), (10, 2)])
def test_no_other_cut_has_a_faster_slowest_stage(num_layers: int, num_stages: int) -> None:
    generator = np.random.default_rng(num_layers)
    for _ in range(20):
        costs = generator.uniform(0, 3, num_layers).tolist()
        stages = balanced_stages(costs, num_stages)
        assert [layer for stage in stages for layer in stage] == list(range(num_layers))
        assert all(stages)
        found = max(sum(costs[layer] for layer in stage) for stage in stages)
        assert found == pytest.approx(min(slowest_of_every_cut(costs, num_stages)))


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(UserError, match="3 layers cannot fill 4 stages"):
        balanced_stages([1.0, 1.0, 1.0], 4)


def test_a_pipeline_waits_for_its_first_and_last_micro_batches() -> None:
    idle = bubbles(4, 64)
    assert idle["1F1B"] == 3 / 67
    assert idle["interleaved, 2 chunks"] == 3 / 131
    assert bubbles(1, 5)["1F1B"] == 0


@pytest.mark.slow
def test_what_does_not_fit_is_named_and_what_is_near_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    small = GPUS["a100-80gb"]._replace(memory_bytes=4 * GIB + 80e6)
    monkeypatch.setitem(GPUS, "a100-80gb", small)
    counted = flare_footprint()
    layout = Layout(gpus=4, gpu="a100-80gb", shard=4, micro_batch=8)
    plan = make_plan(counted, layout, efficiency=0.5)
    assert not plan.fits
    assert "stage 0 needs" in plan.complaints[0]
    (other, *_) = nearest_fits(counted, layout, efficiency=0.5)
    assert other.fits
    assert other.layout.gpus == layout.gpus


def test_ranks_that_do_not_multiply_are_refused_with_the_number_that_would() -> None:
    with pytest.raises(UserError, match="shard 4 would fit"):
        Layout(gpus=24, gpu="h200", shard=5, pipeline=3, replicate=2)


def test_a_ring_over_whole_nodes_has_all_their_adapters_and_a_sparse_one_has_one() -> None:
    layout = Layout(gpus=64, gpu="a100-80gb", shard=16, pipeline=4)
    assert layout.bandwidth(8, stride=1) == 300e9
    assert layout.bandwidth(16, stride=1) == 200e9
    assert layout.bandwidth(4, stride=16) == 25e9


def test_claims_that_cannot_all_be_true_are_found_by_arithmetic() -> None:
    claim = Claim(gpus=64, gpu="a100-80gb", days=28.0, tokens=4.2e12, gpu_hours=1.5e6)
    hours, peak, bought = contradictions(claim, flops_per_token=64.7e9, efficiency=0.5)
    assert "43,008 GPU-hours, not 1,500,000" in hours
    assert "977 days" in hours
    assert "5.6 x its peak" in peak
    assert "buy 1.3e+13 tokens" in bought
    honest = replace(claim, gpu_hours=43_008.0, tokens=3.6e11)
    assert not contradictions(honest, flops_per_token=64.7e9, efficiency=0.5)


# --- measuring -----------------------------------------------------------------------------


def assert_close(measured: float, predicted: float) -> None:
    assert predicted == pytest.approx(measured, rel=0.01)


@contextmanager
def counted_work() -> Iterator[Callable[[], int]]:
    """Torch's own counter; attention as plain products, which it counts as the definition does."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        yield counter.get_total_flops


@contextmanager
def kept_bytes(
    model: nn.Module, inputs_of: list[nn.Module] | None = None
) -> Iterator[Callable[[], int]]:
    """Storages saved for the backward pass that are no weights, and inputs of recomputed modules,
    which recomputation holds outside autograd's sight."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage().data_ptr()
        if key not in weights and tensor.numel():
            saved[key] = tensor.detach()
        return tensor

    def keep_input(
        module: nn.Module, given: tuple[object, ...], options: dict[str, object]
    ) -> None:
        hidden = given[0] if given else options["hidden_states"]
        assert isinstance(hidden, Tensor)
        keep(hidden)

    handles = [m.register_forward_pre_hook(keep_input, with_kwargs=True) for m in inputs_of or []]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    for handle in handles:
        handle.remove()


def differentiate(*outputs: Tensor) -> None:
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def decode(model: FlareForConditionalGeneration, *, rows: int, length: int) -> Tensor:
    width = model.config.text_config.hidden_size
    documents = torch.zeros(rows, length, dtype=torch.int64)
    return model.decoder(
        torch.randn(rows, length, width, requires_grad=True),
        positions=positions_in_documents(documents),
        mask=hybrid_mask(documents, documents == 0),
        backend="auto",
    )


def language_loss(model: FlamingoForConditionalGeneration, *, rows: int, length: int) -> Tensor:
    ids = torch.randint(8, 900, (rows, length))
    pixels = torch.randint(0, 256, (rows, 1, 3, 32, 32), dtype=torch.uint8)
    loss: Tensor = model(
        ids,
        pixel_values=pixels,
        media_item=torch.ones_like(ids),
        document_ids=torch.zeros_like(ids),
        labels=ids,
        num_items_in_batch=1,
        skip_logits=True,
    ).loss
    return loss


def costs_of_all(counted: Footprint, recompute: Recompute) -> list[Cost]:
    """Layers, head and towers for the same rows."""
    costs = [cost_of(unit, ROWS, recompute, "cpu") for layer in counted.layers for unit in layer]
    costs += [cost_of_tower(tower, ROWS, recompute, "cpu") for tower in counted.towers]
    assert counted.head is not None
    return [*costs, cost_of(counted.head, ROWS, "none")]


def slowest_of_every_cut(costs: list[float], num_stages: int) -> Iterator[float]:
    for cuts in combinations(range(1, len(costs)), num_stages - 1):
        bounds = [0, *cuts, len(costs)]
        yield max(sum(costs[bounds[i] : bounds[i + 1]]) for i in range(num_stages))
