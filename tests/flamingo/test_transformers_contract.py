"""What transformers 5 asks of a model: saving, loading, Auto classes, pipeline, Trainer, PEFT."""

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
    AttentionInterface,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    GenerationMixin,
    QuantoConfig,
    TorchAoConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from common.errors import UserError
from flamingo import FlamingoConfig, FlamingoForConditionalGeneration, FlamingoProcessor
from tests.flamingo import tiny

VOCAB = 300
RED, BLUE = Image.new("RGB", (40, 44), "red"), Image.new("RGB", (44, 40), "blue")


def chat(picture: Image.Image, question: str, answer: str) -> list[dict[str, Any]]:
    asked = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    return [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


CHATS = [chat(RED, "Which colour?", " red"), chat(BLUE, "And this?", " blue as the sea")]


@pytest.fixture(scope="module")
def model() -> FlamingoForConditionalGeneration:
    built = tiny.model(vocab_size=VOCAB)
    built.config.text_config.tie_word_embeddings = True
    tied = FlamingoForConditionalGeneration(built.config).eval()
    tied.load_state_dict(built.state_dict())
    tied.tie_weights()
    return tied


@pytest.fixture(scope="module")
def processor() -> FlamingoProcessor:
    return tiny.processor(VOCAB)


@pytest.fixture(scope="module")
def batch(processor: FlamingoProcessor) -> Any:
    texts = ["<image>one <image>two", "<image>x"]
    return processor(images=[[RED, BLUE], [BLUE]], text=texts, return_tensors="pt", padding=True)


@pytest.fixture(scope="module")
def folder(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("saved")
    model.save_pretrained(path, max_shard_size="40KB")
    processor.save_pretrained(path)
    return path


def real(logits: torch.Tensor, batch: Any) -> torch.Tensor:
    """Logits where there is text; rows of padding are free to differ."""
    return logits[batch["attention_mask"].bool()]


def test_sharded_safetensors_reload_bit_equal_through_the_auto_class(
    model: FlamingoForConditionalGeneration, folder: Path, batch: Any
) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert "language_model.lm_head.weight" not in index["weight_map"]
    again, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
    assert not any(report[kind] for kind in keys), report
    assert again.language_model.lm_head.weight is again.language_model.model.embed_tokens.weight
    assert torch.equal(again.eval()(**batch).logits, model(**batch).logits)


def test_buffers_that_are_not_saved_are_restored(
    model: FlamingoForConditionalGeneration, folder: Path
) -> None:
    again = AutoModelForImageTextToText.from_pretrained(folder)
    rotary = again.language_model.model.rotary_emb.inv_freq
    assert torch.equal(rotary, model.language_model.model.rotary_emb.inv_freq)


def test_dtype_is_an_argument_and_is_remembered(folder: Path, tmp_path: Path) -> None:
    half = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    half.save_pretrained(tmp_path)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_attention_backends_of_the_language_model_agree(
    model: FlamingoForConditionalGeneration, folder: Path, batch: Any
) -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return eager_attention_forward(*args, **kwargs)

    AttentionInterface.register("counted", counted)
    AttentionMaskInterface.register("counted", eager_mask)
    expected = real(model(**batch).logits, batch)
    for name in ("eager", "sdpa", "counted"):
        other = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=name).eval()
        torch.testing.assert_close(
            real(other(**batch).logits, batch), expected, atol=2e-4, rtol=1e-4
        )
        edited = {**batch, "input_ids": batch["input_ids"].clone()}
        edited["input_ids"][:, -1] = 9
        earlier = batch["attention_mask"].bool()
        earlier[:, -1] = False
        assert torch.equal(other(**edited).logits[earlier], other(**batch).logits[earlier])
    assert calls


def test_processor_chat_and_pipeline_work_from_the_folder(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, FlamingoProcessor)
    assert processor.image_token_id == VOCAB
    words = {"type": "text", "text": "what?"}
    chat = [{"role": "user", "content": [{"type": "image", "image": RED}, words]}]
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert inputs["pixel_values"].shape == (1, 1, 3, 32, 32)
    pipe = pipeline("image-text-to-text", model=str(folder), device="cpu")
    answer = pipe(text=chat, max_new_tokens=4, return_full_text=False)[0]["generated_text"]
    assert isinstance(answer, str)


def train(model: Any, folder: Path, batch: Any, **resume: Any) -> list[torch.Tensor]:
    names = ("input_ids", "attention_mask", "pixel_values", "num_images")
    rows = [{n: batch[n][i] for n in names} | {"labels": batch["input_ids"][i]} for i in (0, 1)]
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
    trainer = Trainer(model=model, args=arguments, train_dataset=rows * 4)
    trainer.train(**resume)
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.slow
def test_trainer_resumes_to_the_same_weights(folder: Path, tmp_path: Path, batch: Any) -> None:
    first = AutoModelForImageTextToText.from_pretrained(folder)
    before = [parameter.detach().clone() for parameter in first.parameters()]
    straight = train(first, tmp_path, batch)
    assert any(not torch.equal(a, b) for a, b in zip(before, straight, strict=True))
    again = AutoModelForImageTextToText.from_pretrained(folder)
    resume = {"resume_from_checkpoint": str(tmp_path / "checkpoint-2")}
    for a, b in zip(straight, train(again, tmp_path, batch, **resume), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_trainer_learns_from_chats_that_the_processor_collates(
    folder: Path, processor: FlamingoProcessor, tmp_path: Path
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
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
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved").eval()
    batch = collated(processor)(CHATS)
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)


def collated(processor: FlamingoProcessor) -> Callable[[list[Any]], dict[str, torch.Tensor]]:
    """Chats as a batch; what is padding or a picture is not learnt."""

    def collate(chats: list[Any]) -> dict[str, torch.Tensor]:
        options = {"padding": True, "return_tensors": "pt"}
        batch = processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, processor_kwargs=options
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {**batch, "labels": labels.masked_fill(batch["input_ids"] == VOCAB, -100)}

    return collate


def test_lora_adapters_are_saved_and_reloaded(folder: Path, tmp_path: Path, batch: Any) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj", "to_query"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForImageTextToText.from_pretrained(folder), lora).eval()
    expected = adapted(**batch).logits
    adapted.save_pretrained(tmp_path)
    base = AutoModelForImageTextToText.from_pretrained(folder)
    assert not torch.equal(base.eval()(**batch).logits, expected)
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_peft_trains_copies_of_the_new_tokens_rows(folder: Path, batch: Any) -> None:
    rows = ["new_inputs", "new_outputs"]
    lora = LoraConfig(r=2, target_modules=["to_query"], modules_to_save=rows)
    adapted = get_peft_model(AutoModelForImageTextToText.from_pretrained(folder), lora)
    adapted(**batch, labels=batch["input_ids"]).loss.backward()
    trained = dict(adapted.named_parameters())
    for name in rows:
        copy = trained[f"base_model.model.{name}.modules_to_save.default.weight"]
        assert copy.grad.abs().sum() > 0


def torchao_config(exact: list[str]) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=exact)


def quanto_config(exact: list[str]) -> Any:
    pytest.importorskip("optimum.quanto")
    return QuantoConfig(weights="int8", modules_to_not_convert=exact)


@pytest.mark.parametrize("config", [torchao_config, quanto_config])
def test_a_quantised_language_model_leaves_the_bridge_exact(
    config: Any, model: FlamingoForConditionalGeneration, folder: Path, batch: Any
) -> None:
    """The new tokens' outputs stay exact though nobody lists them."""
    exact = ["vision_encoder", "resampler", "gated_cross_attention", "lm_head"]
    other = AutoModelForImageTextToText.from_pretrained(folder, quantization_config=config(exact))
    layer = other.language_model.model.layers[0].self_attn.q_proj
    assert type(layer.weight.data) is not torch.Tensor
    for name in ("new_outputs.weight", "language_model.lm_head.weight", "resampler.latents"):
        assert torch.equal(other.get_parameter(name), model.get_parameter(name))
    assert torch.equal(other.gated_blocks[0].attention_gate, model.gated_blocks[0].attention_gate)
    expected = real(model(**batch).logits, batch)
    found = real(other.eval()(**batch).logits, batch)
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_replaced_output_layer_is_refused_by_name(
    model: FlamingoForConditionalGeneration, batch: Any
) -> None:
    """A quantiser that was not told to leave it drops what hangs on it."""
    other = FlamingoForConditionalGeneration(model.config).eval()
    other.language_model.set_output_embeddings(nn.Linear(24, VOCAB, bias=False))
    with pytest.raises(UserError, match=r'modules_to_not_convert=\["lm_head"\]'):
        other(**batch)


def test_a_field_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(StrictDataclassFieldValidationError):
        FlamingoConfig(num_latents="four")


def test_a_head_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Exception, match="cross_attention_head_dim=7 does not divide"):
        tiny.config(cross_attention_head_dim=7)


def test_configuration_survives_its_json(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, FlamingoConfig)
    assert config.vision_config.model_options["depths"] in ((1, 1), [1, 1])
    assert len(config.cross_attention_layers) == 3
    assert config.end_of_chunk_token_id == VOCAB + 1


def test_a_pipeline_stops_at_the_end_of_a_chunk(folder: Path) -> None:
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [2, VOCAB + 1]


def test_generation_is_inherited_and_ties_are_a_mapping() -> None:
    assert issubclass(FlamingoForConditionalGeneration, GenerationMixin)
    assert isinstance(tiny.model().all_tied_weights_keys, dict)


def test_weights_beside_a_missing_one_keep_their_values(folder: Path) -> None:
    class Grown(FlamingoForConditionalGeneration):
        def __init__(self, config: FlamingoConfig) -> None:
            super().__init__(config)
            self.gated_blocks[0].extra = nn.Parameter(torch.zeros(1))

    grown = Grown.from_pretrained(folder)
    assert float(grown.gated_blocks[0].attention_gate) == pytest.approx(0.8)


def test_loss_of_labels_is_the_mean_next_token_loss(
    model: FlamingoForConditionalGeneration, batch: Any
) -> None:
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = model(**batch, labels=labels)
    expected = nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(output.loss, expected)
