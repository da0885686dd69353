"""The training task and its recipes: what is trained, how it is decayed, what is specified."""

from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from flamingo.attention_map import attention_map
from flamingo.language_pretraining import LanguageTask, LanguageTaskConfig
from flamingo.recipes import RECIPES, flamingo_80b, flamingo_80b_paper, flamingo_tiny, make_task
from flamingo.task import FlamingoTask
from flamingo.task_config import FlamingoTaskConfig, SourceConfig
from tests.feeds import packed_examples
from tests.flamingo import tiny


@pytest.fixture(scope="module")
def task() -> FlamingoTask:
    config = replace(flamingo_tiny().task, language_model=None, vision_encoder=None)
    return FlamingoTask(config)


def test_decay_falls_on_gated_matrices_only_and_every_trained_parameter_has_a_group(
    task: FlamingoTask,
) -> None:
    model = task.build_model()
    decayed, rest = task.parameter_groups(model)
    assert (decayed.weight_decay, rest.weight_decay) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in decayed.parameters:
        assert names[id(parameter)].startswith("gated_cross_attention.")
        assert parameter.ndim == 2
    undecayed = {names[id(parameter)].split(".")[0] for parameter in rest.parameters}
    assert undecayed == {"resampler", "new_inputs", "new_outputs", "gated_cross_attention"}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(decayed.parameters) + len(rest.parameters) == len(trained)


def test_frozen_parts_keep_their_own_precision() -> None:
    config = replace(
        flamingo_tiny().task, language_model=None, vision_encoder=None, frozen_precision="bf16"
    )
    model = FlamingoTask(config).build_model()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("language_model.", "vision_encoder."))
        assert parameter.requires_grad is not frozen
        assert parameter.dtype == (torch.bfloat16 if frozen else torch.float32)


def test_losses_are_sums_over_the_counted_targets(task: FlamingoTask) -> None:
    model = task.build_model().eval()
    source = task.sources()["episodes"]
    rows = packed_examples(source, 3)
    whole = source.collate(rows)
    parts = [source.collate([row]) for row in rows]
    total = task.compute(model, "episodes", whole).losses["episodes"]
    pieces = [task.compute(model, "episodes", p).losses["episodes"] for p in parts]
    torch.testing.assert_close(total, torch.stack(pieces).sum(), rtol=1e-4, atol=1e-4)
    counts = [task.counts("episodes", p)["episodes"] for p in parts]
    assert task.counts("episodes", whole)["episodes"] == sum(counts) > 0


@pytest.mark.slow
def test_the_full_size_task_is_counted_without_memory_and_refuses_random_backbones() -> None:
    task = FlamingoTask(flamingo_80b().task)
    with torch.device("meta"):
        model = task.build_model()
    assert all(parameter.is_meta for parameter in model.parameters())
    decayed, rest = task.parameter_groups(model)
    trained = sum(p.numel() for group in (decayed, rest) for p in group.parameters)
    assert trained == 8_549_110_808
    with pytest.raises(UserError, match=r"give --task\.language-model and --task\.vision-encoder"):
        task.build_model()


def test_attention_of_a_word_lies_on_its_own_image() -> None:
    model, processor = tiny.model(vocab_size=300), tiny.processor()
    first, second = tiny.images(1, 2)[0].permute(0, 2, 3, 1).numpy()
    seen = attention_map(model, processor, [first, "ab", second, "c"])
    at = {"ab": slice(1, 5), "c": slice(5, 7)}  # <s> <image> a b <eoc> <image> c
    torch.testing.assert_close(seen.images[at["ab"], 0], torch.ones(4))
    torch.testing.assert_close(seen.images[at["c"], 1], torch.ones(2))
    assert (seen.images[0] == 0).all()
    torch.testing.assert_close(seen.patches[1:].sum(-1), torch.ones(6))


def test_the_specified_run_carries_the_specified_numbers() -> None:
    run = flamingo_80b()
    assert run.task.model == "flamingo_80b"
    assert run.optimizer.peak_learning_rate == 1.2e-4
    assert run.optimizer.clip_norm == 1.0
    assert (run.schedule.kind, run.schedule.warmup_steps) == ("cosine", 5_000)
    assert run.task.sources[0].batch_size == 1024
    assert (run.task.max_tokens, run.task.image_size) == (2048, 224)
    assert run.task.augment_steps > 0
    assert run.stop_patience is not None


def test_the_published_run_differs_where_the_paper_does() -> None:
    run = flamingo_80b_paper()
    assert run.optimizer.peak_learning_rate == 1e-4
    assert run.schedule.kind == "constant"
    assert run.task.image_size == 320
    assert [source.weight for source in run.task.sources] == [1.0, 0.2, 0.2]
    assert run.task.sources[0].next_image_probability == 0.5


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_states_its_hardware_and_makes_its_task(name: str) -> None:
    assert "Hardware:" in (RECIPES[name].__doc__ or "")
    make_task(RECIPES[name]())


def test_the_language_stage_mixes_english_and_scene_texts_by_its_share() -> None:
    config = LanguageTaskConfig(
        model="flamingo_tiny", batch_size=4, max_tokens=40, prose_share=0.25
    )
    source = LanguageTask(config).sources()["text"]
    keys = [source.example(position).key for position in range(200)]
    assert 30 < sum(key.startswith("prose/") for key in keys) < 70
    assert source.example(7).key == source.example(7).key
    kinds = {key.split("/")[0] for key in keys}
    assert {"text of episode", "text of question", "text of interleaved"} <= kinds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "flamingo_8b"}, "no preset 'flamingo_8b'"),
        ({"sources": ()}, "at least one source"),
    ],
)
def test_impossible_tasks_are_refused(change: dict[str, object], message: str) -> None:
    fields = {"model": "flamingo_tiny", "sources": flamingo_tiny().task.sources}
    with pytest.raises(UserError, match=message):
        FlamingoTaskConfig(**(fields | change))
    with pytest.raises(UserError, match="next_image_probability must lie"):
        SourceConfig(name="x", kind="scenes", batch_size=1, weight=1.0, next_image_probability=2.0)
