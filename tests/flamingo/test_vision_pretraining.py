"""The contrastive stage: its data, its loss, its figures and what it hands on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.embedded.captions import full_caption
from common.data.embedded.scenes import scenes_in
from common.encoders.vision import VisionEncoder
from common.errors import UserError
from common.objectives.contrastive import Contrast, info_nce
from common.training.loader import Share, read_updates
from common.training.runtime import Runtime
from common.training.task import Batch, Contrastive, Example, Source, Task
from common.training.update import Updater
from flamingo.caption_pairs import PairBatch, generated_groups, generated_pairs
from flamingo.recipes import flamingo_tiny_vision
from flamingo.vision_pretraining import ContrastiveConfig, ContrastiveModel, ContrastiveTask

CONFIG = ContrastiveConfig(
    model="flamingo_tiny",
    batch_size=6,
    embedding_dim=20,
    text_dim=24,
    text_layers=1,
    text_heads=3,
    max_tokens=16,
    weight_decay=0.1,
)


@pytest.fixture(scope="module")
def task() -> ContrastiveTask:
    return ContrastiveTask(CONFIG)


@pytest.fixture(scope="module")
def model(task: ContrastiveTask) -> ContrastiveModel:
    torch.manual_seed(0)
    return task.build_model()


def test_task_source_and_batch_fulfil_the_protocols_of_the_training_loop(task):
    source = task.sources()["pairs"]
    example = source.example(3)
    batch = source.collate([example, source.example(4)])
    assert isinstance(task, Task)
    assert isinstance(task, Contrastive)
    assert isinstance(source, Source)
    assert isinstance(example, Example)
    assert isinstance(batch, Batch)


def test_a_pair_is_a_function_of_its_position():
    first, again = (generated_pairs(seed=5, family_size=3, digit_share=0.2)(17) for _ in range(2))
    other = generated_pairs(seed=5, family_size=3, digit_share=0.2)(18)
    assert first.key == again.key != other.key
    assert first.caption == again.caption
    assert np.array_equal(first.parts[0], again.parts[0])


def test_scenes_of_a_family_are_training_scenes_that_differ_in_one_attribute():
    draw = generated_pairs(seed=5, family_size=3, digit_share=0.0)
    scenes = {full_caption(scene): scene for scene in scenes_in("train")}
    for family in range(20):
        head, *others = (scenes[draw(3 * family + member).caption] for member in range(3))
        for other in others:
            changed = [
                a
                for a in ("colour", "shape", "count", "position", "size")
                if other.value(a) != head.value(a)
            ]
            assert len(changed) == 1


def test_held_out_groups_have_distinct_captions_that_training_never_shows():
    groups = generated_groups(seed=0, captions=12, groups=2)
    draw = generated_pairs(seed=0, family_size=4, digit_share=0.2)
    trained = {draw(index).caption for index in range(300)}
    for name in ("unseen_scenes", "unseen_pairs"):
        assert len(groups[name]) == 2
        for group in groups[name]:
            assert len({pair.text for pair in group} - trained) == len(group) == 12
    assert {len(group) for group in groups["digits"]} == {10}


def contrast(task: ContrastiveTask, model: ContrastiveModel, batch: PairBatch) -> Contrast:
    pairs = task.compute(model, "pairs", batch).pairs["contrastive"]
    return task.contrast(model, "contrastive", pairs, gather=lambda rows: rows)


def test_the_loss_is_that_of_all_pairs_of_the_batch(task, model):
    source = task.sources()["pairs"]
    batch = source.collate([source.example(position) for position in range(6)])
    result = contrast(task, model, batch)
    images = model.encode_images(batch.pixels)
    captions = model.encode_captions(batch.input_ids, valid=batch.valid)
    expected = info_nce(images, captions, log_scale=model.log_scale, duplicates=batch.caption_ids)
    assert torch.equal(result.loss, expected.loss)
    assert task.counts("pairs", batch) == {"contrastive": int(result.count)} == {"contrastive": 6}


def test_micro_batches_are_contrasted_with_the_whole_update(task, tmp_path: Path):
    figures = []
    for parts in (1, 3):
        run = replace(flamingo_tiny_vision(), task=CONFIG, num_micro_batches=parts)
        runtime = Runtime(run, tmp_path)
        updater = Updater(run, task, runtime)
        share = Share(rank=0, num_ranks=1, num_micro_batches=parts)
        (update,) = read_updates(task.sources(), first=0, last=1, share=share, num_workers=0)
        updater.update(update.parts, number=1)
        figures.append(updater.window.take())
    whole, cut = figures
    assert cut["negatives/pairs/contrastive"] == whole["negatives/pairs/contrastive"] > 2
    for name in ("loss", "gradient_norm"):
        assert cut[name] == pytest.approx(whole[name], rel=1e-4)


def test_every_parameter_is_in_one_group_and_only_matrices_decay(task, model):
    matrices, vectors = task.parameter_groups(model)
    assert matrices.weight_decay == 0.1
    assert vectors.weight_decay == 0
    grouped = [id(p) for group in (matrices, vectors) for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    gain = model.vision.model.stem.conv1.gain  # (channels, 1, 1, 1): a vector all the same
    assert any(p is gain for p in vectors.parameters)
    assert any(p is model.image_projection.weight for p in matrices.parameters)


def test_an_untrained_model_retrieves_at_chance(task, model):
    figures = task.validate(model)
    for name, chance in {"unseen_scenes": 1 / 64, "unseen_pairs": 1 / 64, "digits": 1 / 10}.items():
        for way in ("image_to_text", "text_to_image"):
            assert figures[f"validation/{name}_{way}_r1"] < 4 * chance
            assert figures[f"validation/{name}_{way}_r5"] >= figures[f"validation/{name}_{way}_r1"]


def test_forty_updates_on_one_batch_tell_its_pairs_apart(task):
    torch.manual_seed(0)
    model = task.build_model()
    source = task.sources()["pairs"]
    batch = source.collate([source.example(position) for position in range(6)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = contrast(task, model, batch).loss / 6
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_residual_branches_start_with_the_gain_of_the_configuration(task, model):
    opened = ContrastiveTask(replace(CONFIG, residual_gain=0.7))
    opened.__dict__["tokenizer"] = task.tokenizer  # training another one takes a second
    for stage, gain in ((model, 0.0), (opened.build_model(), 0.7)):
        gains = [p for n, p in stage.vision.named_parameters() if n.endswith("skipinit_gain")]
        assert gains
        assert all(torch.equal(p, torch.full((1,), gain)) for p in gains)


def test_the_exported_encoder_gives_the_same_tokens(task, model, tmp_path: Path):
    task.export(model, tmp_path)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    again = VisionEncoder.from_folder(tmp_path)
    assert torch.equal(again(pixels), model.vision(pixels))


def test_flops_grow_with_images_and_words_and_match_a_count_by_hand(task, model):
    source = task.sources()["pairs"]
    batch = source.collate([source.example(position) for position in range(2)])
    larger = source.collate([source.example(position) for position in range(4)])
    stem = 2 * 3 * 6 * 9 * 16 * 16  # one convolution of the stem, forward
    assert task.flops(model, "pairs", larger) > 1.9 * task.flops(model, "pairs", batch)
    assert task.flops(model, "pairs", batch) > 3 * 2 * stem


def test_a_folder_of_pairs_trains_and_is_validated_on_held_out_pairs(task, tmp_path: Path):
    generator = np.random.default_rng(0)
    for index in range(40):
        picture = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index:02}.png")
        (tmp_path / f"{index:02}.txt").write_text(f"noise number {index // 2}")
    tokenizer = tmp_path / "tokenizer"
    task.tokenizer.save_pretrained(tokenizer)
    config = replace(CONFIG, pairs=(tmp_path,), tokenizer=tokenizer, augment_steps=1)
    task = ContrastiveTask(config)
    source = task.sources()["pairs"]
    batch = source.collate([source.example(position) for position in range(6)])
    assert batch.pixels.shape == (6, 3, 32, 32)
    assert contrast(task, task.build_model(), batch).loss.isfinite()
    figures = task.validate(task.build_model())
    assert set(figures) == {
        f"validation/pairs_{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "flamingo_tinny"}, "no preset 'flamingo_tinny'"),
        ({"batch_size": 1}, "leaves no negatives"),
        ({"digit_share": 1.5}, "digit_share"),
        ({"family_size": 0}, "family_size"),
    ],
)
def test_impossible_values_fail_at_once(changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **changes)
