"""Fine-tunes a Flamingo with LoRA on a folder of `a.png` beside `a.txt`, by PEFT and Trainer."""

from pathlib import Path

import tyro
from peft import LoraConfig, PeftModel, get_peft_model
from stand_ins import EXAMPLES, chat, model_folder, pairs_folder
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

from common.data.images import read_image
from flamingo.generation import complete

LAYERS = ["to_query", "to_value", "q_proj", "v_proj", "up_proj", "down_proj"]  # bridge and Llama
OPTIONS = {"logging_steps": 5, "report_to": "none", "remove_unused_columns": False}
PADDED = {"padding": True, "return_tensors": "pt"}
TENSORS = {"tokenize": True, "return_dict": True, "processor_kwargs": PADDED}


def main(pairs: Path | None = None, model: Path | None = None, steps: int = 60) -> None:
    """Train, save the adapter in runs/examples/lora, load it again and caption a picture."""
    images, folder = sorted((pairs or pairs_folder()).glob("*.png")), model or model_folder()
    processor, out = AutoProcessor.from_pretrained(folder), str(EXAMPLES / "lora")
    load = AutoModelForImageTextToText.from_pretrained

    def collate(paths):
        batch = processor.apply_chat_template([chat(path) for path in paths], **TENSORS)
        is_text = batch["attention_mask"].bool() & (batch["input_ids"] != processor.image_token_id)
        return {**batch, "labels": batch["input_ids"].where(is_text, -100)}

    adapted = get_peft_model(load(folder), LoraConfig(r=8, target_modules=LAYERS))
    settings = TrainingArguments(out, max_steps=steps, learning_rate=0.005, **OPTIONS)
    Trainer(adapted, settings, train_dataset=images, data_collator=collate).train()
    adapted.save_pretrained(out)
    again = PeftModel.from_pretrained(load(folder), out).merge_and_unload()
    print(*complete(again, processor, [[read_image(images[0]), "Output:"]], max_new_tokens=24))


if __name__ == "__main__":
    tyro.cli(main)
