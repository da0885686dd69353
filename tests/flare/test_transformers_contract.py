"""What transformers 5 asks of a model: saving, loading, Auto classes, devices, vocabulary, PEFT."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    GenerationMixin,
    QuantoConfig,
    TorchAoConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)

from common.data.embedded.tokenizer import train_tokenizer
from flare import FlareConfig, FlareForConditionalGeneration, FlareProcessor, FlareTextConfig
from tests.flare import tiny

VOCAB = 300
RED, BLUE = Image.new("RGB", (40, 44), "red"), Image.new("RGB", (44, 40), "blue")
HUM = tiny.clips(1)[0].numpy()

SEEN, HEARD = {"type": "image", "image": RED}, {"type": "audio", "audio": HUM}


def chat(medium: dict[str, Any], answer: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [medium, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


CHATS = [chat(SEEN, "red"), chat(HEARD, "a deep hum")]


@pytest.fixture(scope="module")
def processor() -> FlareProcessor:
    """A byte-level tokenizer without a single learnt merge."""
    return FlareProcessor.from_tokenizer(
        train_tokenizer(["a plain text"], vocab_size=259, max_length=512),
        vocab_size=VOCAB,
        image_size=tiny.IMAGE_SIZE,
        image_queries=tiny.IMAGE_QUERIES,
        audio_queries=tiny.AUDIO_QUERIES,
    )


@pytest.fixture(scope="module")
def model(processor: FlareProcessor) -> FlareForConditionalGeneration:
    names = ("image_token_id", "audio_token_id", "mask_token_id", "emb_token_id")
    return tiny.model(vocab_size=VOCAB, **{name: getattr(processor, name) for name in names})


@pytest.fixture(scope="module")
def batch(processor: FlareProcessor) -> Any:
    texts = ["<image>one <audio>two", "<image>x<image>"]
    return processor(
        images=[[RED], [BLUE, RED]],
        audio=[[HUM], []],
        text=texts,
        return_tensors="pt",
        padding=True,
    )


@pytest.fixture(scope="module")
def folder(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("saved")
    model.save_pretrained(path, max_shard_size="40KB")
    processor.save_pretrained(path)
    return path


@pytest.mark.parametrize("auto", [AutoModelForMultimodalLM, AutoModelForImageTextToText])
def test_sharded_safetensors_reload_bit_equal_through_the_auto_classes(
    auto: Any, model: FlareForConditionalGeneration, folder: Path, batch: Any
) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    again, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(again, FlareForConditionalGeneration)
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(again.eval()(**batch).logits, model(**batch).logits)
    assert again.generation_config.suppress_tokens == model.generation_config.suppress_tokens


def test_dtype_is_an_argument_and_is_remembered(folder: Path, tmp_path: Path, batch: Any) -> None:
    half = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(**batch, labels=batch["input_ids"]).loss.isfinite()
    half.save_pretrained(tmp_path)
    assert AutoModelForMultimodalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_configuration_survives_its_json(folder: Path, model: Any) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, FlareConfig)
    assert isinstance(config.text_config, FlareTextConfig)
    assert config.get_text_config() is config.text_config
    assert config.vision_config.layer == -2
    assert config.audio_config.conv_strides == (5, 2, 2)
    again = {**config.to_dict(), "_name_or_path": None, "architectures": None}
    assert again == {**model.config.to_dict(), "_name_or_path": None, "architectures": None}


def test_a_field_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(StrictDataclassFieldValidationError):
        FlareConfig(contrastive_dim="four")
    with pytest.raises(StrictDataclassFieldValidationError):
        FlareConfig(contrastive="triplet")


def test_control_tokens_that_collide_are_refused() -> None:
    with pytest.raises(Exception, match=r"control token ids .* must differ"):
        tiny.config(emb_token_id=3)


def test_weights_can_be_spread_over_devices(folder: Path, tmp_path: Path, batch: Any) -> None:
    """A part may live on disk and come in for its own forward alone."""
    whole = AutoModelForMultimodalLM.from_pretrained(folder, device_map="cpu").eval()
    places = {name: "cpu" for name, _ in whole.named_children()}
    places |= dict.fromkeys(("image_log_scale", "audio_log_scale"), "cpu")
    places |= {"audio_projector": "disk", "decoder": "disk"}
    spread = AutoModelForMultimodalLM.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path
    ).eval()
    assert next(spread.decoder.parameters()).device.type == "meta"
    assert torch.equal(spread(**batch).logits, whole(**batch).logits)


def test_new_rows_of_the_vocabulary_leave_the_old_logits_as_they_are(
    folder: Path, batch: Any
) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    before = model(**batch).logits
    model.resize_token_embeddings(VOCAB + 5)
    assert model.config.text_config.vocab_size == VOCAB + 5
    assert model.get_input_embeddings() is model.embedding
    assert model.get_output_embeddings() is model.head
    after = model(**batch).logits
    assert after.shape[-1] == VOCAB + 5
    torch.testing.assert_close(after[..., :VOCAB], before)


def test_inputs_of_a_frozen_model_can_require_gradients(folder: Path, batch: Any) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(folder).requires_grad_(False)
    assert not model(**batch).logits.requires_grad
    model.enable_input_require_grads()
    assert model(**batch).logits.requires_grad


def test_lora_adapters_are_saved_and_reloaded(folder: Path, tmp_path: Path, batch: Any) -> None:
    lora = LoraConfig(r=2, target_modules=["to_q", "gate"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForMultimodalLM.from_pretrained(folder), lora).eval()
    expected = adapted(**batch).logits
    adapted.save_pretrained(tmp_path)
    base = AutoModelForMultimodalLM.from_pretrained(folder)
    assert not torch.equal(base.eval()(**batch).logits, expected)
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def torchao_config(exact: list[str]) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=exact)


def quanto_config(exact: list[str]) -> Any:
    pytest.importorskip("optimum.quanto")
    return QuantoConfig(weights="int8", modules_to_not_convert=exact)


@pytest.mark.parametrize("config", [torchao_config, quanto_config])
def test_a_quantised_decoder_leaves_encoders_and_heads_exact(
    config: Any, model: FlareForConditionalGeneration, folder: Path, batch: Any
) -> None:
    heads = ["lm_head", "image_vector", "audio_vector", "text_vector"]
    exact = ["vision_encoder", "audio_encoder", *heads]
    other = AutoModelForMultimodalLM.from_pretrained(folder, quantization_config=config(exact))
    layer = other.decoder.blocks[0].attention.to_q
    assert type(layer.weight.data) is not torch.Tensor
    for name in (*(f"{head}.weight" for head in heads), "image_log_scale", "embedding.weight"):
        assert torch.equal(other.get_parameter(name), model.get_parameter(name))
    kept = batch["attention_mask"].bool()
    expected, found = model(**batch).logits[kept], other.eval()(**batch).logits[kept]
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_processor_chat_and_pipeline_work_from_the_folder(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, FlareProcessor)
    words = {"type": "text", "text": "what?"}
    chat = [{"role": "user", "content": [{"type": "image", "image": RED}, words]}]
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    pipe = pipeline("image-text-to-text", model=str(folder), device="cpu")
    answer = pipe(text=chat, max_new_tokens=4, return_full_text=False)[0]["generated_text"]
    assert isinstance(answer, str)


def test_generation_is_inherited_and_nothing_is_tied(model: FlareForConditionalGeneration) -> None:
    assert issubclass(FlareForConditionalGeneration, GenerationMixin)
    assert model.all_tied_weights_keys == {}
    assert model.head.weight is not model.embedding.weight


def test_weights_beside_a_missing_one_keep_their_values(
    model: FlareForConditionalGeneration, folder: Path
) -> None:
    class Grown(FlareForConditionalGeneration):
        def __init__(self, config: FlareConfig) -> None:
            super().__init__(config)
            self.extra = nn.Parameter(torch.zeros(1))

    grown = Grown.from_pretrained(folder).state_dict()
    assert all(torch.equal(grown[key], value) for key, value in model.state_dict().items())


def test_loss_of_labels_is_the_mean_next_token_loss(
    model: FlareForConditionalGeneration, batch: Any
) -> None:
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = model(**batch, labels=labels)
    expected = nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(output.loss, expected)


def test_only_the_logits_that_are_kept_are_computed(
    model: FlareForConditionalGeneration, batch: Any
) -> None:
    whole = model(**batch).logits
    torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, whole[:, -2:])
    places = torch.tensor([1, 4])
    torch.testing.assert_close(model(**batch, logits_to_keep=places).logits, whole[:, places])


@pytest.mark.slow
def test_trainer_resumes_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    """Rows of text: transformers' own collator knows no flat media."""
    first = AutoModelForMultimodalLM.from_pretrained(folder)
    before = [parameter.detach().clone() for parameter in first.parameters()]
    straight = train(first, tmp_path)
    assert any(not torch.equal(a, b) for a, b in zip(before, straight, strict=True))
    again = AutoModelForMultimodalLM.from_pretrained(folder)
    resumed = train(again, tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


@pytest.mark.slow
def test_trainer_learns_from_chats_that_the_processor_collates(
    folder: Path, processor: FlareProcessor, tmp_path: Path
) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=8,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        logging_steps=1,
        disable_tqdm=True,
        remove_unused_columns=False,
        save_strategy="no",
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=CHATS * 8, data_collator=collated(processor)
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert max(losses[-2:]) < 0.8 * min(losses[:2])
    trainer.save_model(str(tmp_path / "saved"))
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved").eval()
    batch = collated(processor)(CHATS)
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)


def collated(processor: FlareProcessor) -> Callable[[list[Any]], dict[str, torch.Tensor]]:
    """Chats as a batch; what is padding is not learnt."""

    def collate(chats: list[Any]) -> dict[str, torch.Tensor]:
        options = {"padding": True, "return_tensors": "pt"}
        batch = processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, processor_kwargs=options
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {**batch, "labels": labels}

    return collate


def train(model: Any, folder: Path, **resume: Any) -> list[torch.Tensor]:
    ids = torch.randint(7, VOCAB, (8, 6), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        str(folder),
        max_steps=3,
        per_device_train_batch_size=2,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
        disable_tqdm=True,
    )
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train(**resume)
    return [parameter.detach().clone() for parameter in model.parameters()]
