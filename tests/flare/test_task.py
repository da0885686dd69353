"""The task: what is contrasted and predicted, what is weighted, and that nothing leaks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import WavLMConfig, WavLMModel

from common.data.document import Document
from common.data.embedded.tokenizer import train_tokenizer
from common.errors import UserError
from common.training.task import Constrained, Contrastive, Task, Weighted
from flare.corpora import SourceConfig
from flare.data import FlareBatch
from flare.encoding import FlareExample
from flare.masking import MaskingConfig
from flare.passes import encode_clips
from flare.presets import PRESETS
from flare.recipes import RECIPES, flare_1b, flare_13b, flare_tiny, flare_tiny_instruct
from flare.task import FlareTask
from flare.task_config import FlareTaskConfig
from tests.feeds import packed_examples
from tests.flare.decoding import decode


def small_task(**changes: object) -> FlareTask:
    config = replace(
        flare_tiny().task,
        batch_size=6,
        max_tokens=96,
        sources=(
            SourceConfig(kind="scenes", weight=1.0),
            SourceConfig(kind="sounds", weight=1.0),
            SourceConfig(kind="mixed", weight=1.0),
        ),
        **changes,
    )
    return FlareTask(config, steps=10)


def first_batch(task: FlareTask) -> FlareBatch:
    source = task.sources()["mixture"]
    return source.collate(packed_examples(source, 6))


def alone(task: FlareTask, document: Document) -> FlareExample:
    encoder = task.sources()["mixture"].encoder
    return encoder.encode(
        document,
        encoder.tokens(document),
        np.random.default_rng(0),
        form="causal",
        mask_rate=0.0,
        max_tokens=96,
    )


def test_the_task_answers_to_every_protocol_of_the_loop() -> None:
    task = small_task()
    for protocol in (Task, Contrastive, Weighted, Constrained):
        assert isinstance(task, protocol)


def test_both_passes_give_the_same_vectors_and_the_counted_terms() -> None:
    task = small_task()
    model, batch = task.build_model().eval(), first_batch(task)
    computed, pairs = task.compute(model, "mixture", batch), task.pairs(model, "mixture", batch)
    counts = task.counts("mixture", batch)
    assert counts.keys() == computed.losses.keys() | pairs.keys()
    assert all(count > 0 for count in counts.values())
    for term, both in computed.pairs.items():
        assert len(both.media) == counts[term]
        torch.testing.assert_close(both.media, pairs[term].media)
        torch.testing.assert_close(both.text, pairs[term].text)
        assert torch.equal(both.ids, pairs[term].ids)


def test_a_caption_never_sees_its_own_medium_where_it_is_contrasted() -> None:
    task = small_task()
    model, batch = task.build_model().eval(), first_batch(task)
    other = replace(
        batch,
        pixel_values=255 - batch.pixel_values,
        clips=replace(
            batch.clips, waveforms=tuple(group.flip(1) for group in batch.clips.waveforms)
        ),
    )
    before, after = (task.compute(model, "mixture", b) for b in (batch, other))
    for term in ("image_text", "audio_text"):
        assert torch.equal(before.pairs[term].text, after.pairs[term].text)
        assert not torch.equal(before.pairs[term].media, after.pairs[term].media)
    # The language model does see them.
    for term in before.losses:
        assert not torch.equal(before.losses[term], after.losses[term])


def test_a_medium_never_sees_its_caption() -> None:
    task = small_task()
    model, batch = task.build_model().eval(), first_batch(task)
    words = batch.input_ids > 6
    other = replace(
        batch, input_ids=torch.where(words, (batch.input_ids + 5) % 900 + 7, batch.input_ids)
    )
    before, after = (task.compute(model, "mixture", b).pairs for b in (batch, other))
    for term in before:
        assert torch.equal(before[term].media, after[term].media)
        assert not torch.equal(before[term].text, after[term].text)


def test_the_hidden_original_of_a_masked_token_reaches_no_prediction() -> None:
    task = small_task()
    model, batch = task.build_model().eval(), first_batch(task)
    targets = batch.targets["language/masked"]
    assert len(targets.ids) > 3
    others = replace(targets, ids=(targets.ids + 1) % 1000)
    renamed = replace(batch, targets=batch.targets | {"language/masked": others})
    before, after = (task.compute(model, "mixture", b) for b in (batch, renamed))
    assert torch.equal(before.losses["language/causal"], after.losses["language/causal"])
    for term in before.pairs:
        assert torch.equal(before.pairs[term].text, after.pairs[term].text)
    assert not torch.equal(before.losses["language/masked"], after.losses["language/masked"])


def test_a_document_learns_nothing_from_its_neighbour_in_the_row() -> None:
    task = small_task()
    model, source = task.build_model().eval(), task.sources()["mixture"]
    packed = next(e for e in packed_examples(source, 6) if e.documents.max() > 0)
    row = source.collate([packed])
    second = packed.documents == 1
    changed = replace(packed, ids=torch.where(second & (packed.ids > 6), 99, packed.ids))
    other = source.collate([changed])
    first = [~second[position + 1] for t in row.targets.values() for position in t.positions]
    assert any(first)

    def hidden(batch: FlareBatch) -> torch.Tensor:
        media = (
            model.encode_images(batch.pixel_values),
            encode_clips(model, batch.clips),
        )
        return decode(
            model,
            batch.input_ids,
            images=media[0].tokens,
            audio=media[1].tokens,
            document_ids=batch.document_ids,
            bidirectional=batch.bidirectional,
        )[0, : len(packed.ids)]

    assert torch.equal(hidden(row)[~second], hidden(other)[~second])
    assert not torch.equal(hidden(row)[second], hidden(other)[second])


def test_masked_and_causal_terms_share_the_language_objective() -> None:
    task = small_task(masking=MaskingConfig())
    assert task.factors(1) == {"language/masked": 0.5, "language/causal": 0.5}
    assert task.factors(10) == {"language/masked": 0.0, "language/causal": 1.0}
    assert task.weighting().names == ("language", "image_text", "audio_text")


@pytest.mark.parametrize("contrast", ["infonce", "siglip"])
def test_every_parameter_is_trained_by_some_term(contrast: str) -> None:
    task = small_task(contrast=contrast)
    model, batch = task.build_model(), first_batch(task)
    computed = task.compute(model, "mixture", batch)
    losses = list(computed.losses.values())
    losses += [
        task.contrast(model, term, pairs, gather=lambda rows: rows).loss
        for term, pairs in computed.pairs.items()
    ]
    torch.stack(losses).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "masked_spec_embed" not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_temperatures_stay_in_range_after_an_update() -> None:
    task = small_task()
    model = task.build_model()
    with torch.no_grad():
        model.image_log_scale.fill_(9.0)
    task.after_update(model)
    assert task.monitor(model)["temperature/image"] == pytest.approx(100.0)


def test_frozen_parts_and_regularisation_reach_the_model() -> None:
    task = small_task(frozen=("vision_encoder", "audio_encoder"), patch_drop=0.5, layer_drop=0.1)
    model, batch = task.build_model(), first_batch(task)
    assert not any(p.requires_grad for p in model.vision_encoder.parameters())
    assert model.vision_encoder.model.pos_embed.std().item() == pytest.approx(0.3, rel=0.1)
    grouped = {id(p) for group in task.parameter_groups(model) for p in group.parameters}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    pixels = batch.pixel_values
    model.train()
    assert model.vision_encoder(pixels).shape[1] == 32
    assert model.eval().vision_encoder(pixels).shape[1] == 64


def test_control_tokens_have_the_ids_of_the_users_tokenizer(tmp_path: Path) -> None:
    train_tokenizer(["a red circle, a low buzz"], vocab_size=300).save_pretrained(tmp_path)
    task = small_task(tokenizer=tmp_path)
    config, processor = task.model_config, task.processor
    ids = {config.image_token_id, config.audio_token_id, config.mask_token_id, config.emb_token_id}
    assert min(ids) > 250
    assert processor.tokenizer.convert_ids_to_tokens(config.emb_token_id) == "<emb>"
    model, batch = task.build_model(), first_batch(task)
    assert len(task.compute(model, "mixture", batch).pairs["image_text"].media) > 0


def test_training_goes_on_from_the_weights_of_a_folder(tmp_path: Path) -> None:
    first = small_task()
    trained = first.build_model()
    first.export(trained, tmp_path)
    task = small_task(model=str(tmp_path), layer_drop=0.1)
    model, batch = task.build_model(), first_batch(task)
    assert model.training
    assert model.config.audio_config.layer_drop == 0.1
    for key, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    assert torch.equal(batch.input_ids, first_batch(first).input_ids)
    with torch.device("meta"):
        assert {p.device.type for p in task.build_model().parameters()} == {"meta"}
    with pytest.raises(UserError, match="no preset 'flare_12b' and no folder of a model"):
        small_task(model="flare_12b")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="holds a llama, no FLARE; convert it first"):
        small_task(model=str(tmp_path)).build_model()


def test_encoders_saved_by_timm_and_transformers_load_by_path(tmp_path: Path) -> None:
    config = small_task().model_config
    vision, audio = config.vision_config, config.audio_config
    vit = timm.create_model(vision.name, img_size=32, num_classes=7, **vision.model_options)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    wavlm = WavLMModel(
        WavLMConfig(
            hidden_size=audio.dim,
            num_hidden_layers=audio.num_layers,
            num_attention_heads=audio.num_heads,
            intermediate_size=audio.feed_forward_dim,
            conv_dim=audio.conv_dims,
            num_conv_pos_embeddings=audio.position_kernel,
            num_conv_pos_embedding_groups=audio.position_groups,
            num_buckets=audio.num_buckets,
            max_bucket_distance=audio.max_distance,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
    )
    wavlm.save_pretrained(tmp_path / "wavlm")
    task = small_task(vision_encoder=tmp_path / "vit.safetensors", audio_encoder=tmp_path / "wavlm")
    model = task.build_model()
    for name, weight in wavlm.state_dict().items():
        assert torch.equal(model.audio_encoder.state_dict()[name], weight), name
    for name, weight in model.vision_encoder.model.state_dict().items():
        assert torch.equal(vit.state_dict()[name], weight), name
    with pytest.raises(UserError, match="vit"):
        small_task(audio_encoder=tmp_path / "vit.safetensors").build_model()
    for name in ("cut.safetensors", "cut.pth"):
        (tmp_path / name).write_bytes((tmp_path / "vit.safetensors").read_bytes()[:999])
        with pytest.raises(UserError, match="are damaged or no state dict"):
            small_task(vision_encoder=tmp_path / name).build_model()


def test_stages_are_balanced_by_two_operations_per_weight_and_those_of_attention() -> None:
    task = small_task()
    model, length = task.build_model(), task.config.max_tokens
    *blocks, last = task.costs()
    matrices = sum(p.numel() for p in model.decoder.blocks[0].parameters() if p.ndim > 1)
    scores_and_values = 2 * 2 * length**2 * 4 * 32
    assert blocks == [2 * length * matrices + scores_and_values] * 3
    assert last == blocks[0] + 2 * length * model.head.weight.numel()


def test_full_recipes_carry_the_specified_numbers() -> None:
    run = flare_13b()
    assert (run.task.batch_size, run.task.max_tokens) == (2048, 2048)
    assert run.optimizer.peak_learning_rate == 2e-4
    assert run.optimizer.clip_norm == 1.0
    assert (run.schedule.warmup_steps, run.schedule.final_fraction) == (10_000, 0.1)
    assert run.schedule.kind == "cosine"
    for recipe in (flare_1b, flare_13b):
        task = FlareTask(recipe().task, steps=10)
        name = PRESETS[task.config.model]().vision_config.name
        assert task.config.vision_encoder is not None
        assert task.config.vision_encoder.name.startswith(f"{name}.")
    tuned = {"flare_tiny_instruct", "flare_tiny_safety", "instruct_13b", "safety_13b"}
    assert RECIPES.keys() == {"flare_tiny", "flare_1b", "flare_13b"} | tuned


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "flare_13"}, "flare_13b"),
        ({"sources": ()}, "no sources"),
        ({"z_loss": -1.0}, "z_loss"),
        ({"patch_drop": 1.0}, "patch_drop"),
        ({"position_scale": -0.1}, "position_scale"),
        ({"tokenizer": Path("nowhere")}, "nowhere"),
        ({"sources": (SourceConfig(kind="image_pairs", weight=1.0),)}, "needs a path"),
        ({"sources": (SourceConfig(kind="llava", weight=1.0),)}, "needs a path"),
        (
            {"sources": (SourceConfig(kind="requests", weight=1.0, path=Path("x.json")),)},
            "leave the path x.json out",
        ),
        ({"beta": 0.0}, "beta must be above 0"),
    ],
)
def test_impossible_settings_are_told_in_one_line(changes: dict[str, object], words: str) -> None:
    def use(config: FlareTaskConfig) -> None:
        FlareTask(config, steps=10).sources()

    with pytest.raises(UserError, match=words):
        use(replace(flare_tiny().task, **changes))


def test_conversations_tune_no_random_weights() -> None:
    task = FlareTask(flare_tiny_instruct().task, steps=10)
    with pytest.raises(UserError, match=r"give its folder as --task\.model"):
        task.build_model()
