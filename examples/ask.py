"""Asks a Flamingo about an image.

python examples/ask.py
python examples/ask.py --image photo.jpg --question "What is this?" --model FOLDER
"""

from pathlib import Path

import tyro
from stand_ins import model_folder, pairs_folder
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.data.images import read_image
from common.data.prompts import question_prompt
from flamingo.generation import complete


def main(
    image: Path | None = None, question: str = "Which colour do you see?", model: Path | None = None
) -> None:
    """Print the answer."""
    image = image or pairs_folder() / "00.png"
    folder = model or model_folder()
    flamingo = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    # A prompt holds pictures and text in reading order; examples would stand before the query.
    prompt = [read_image(image), question_prompt(question)]
    print(f"{image}: {question}", complete(flamingo, processor, [prompt], max_new_tokens=10)[0])


if __name__ == "__main__":
    tyro.cli(main)
