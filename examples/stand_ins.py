"""What the examples use when they are given nothing: a model, and pictures with captions."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.data.embedded.captions import full_caption
from common.data.embedded.scenes import draw_scene, render
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.corpora import embedded_tokenizer
from flamingo.presets import flamingo_tiny

QUICKSTART, EXAMPLES = Path("runs/quickstart/flamingo/model"), Path("runs/examples")
NUM_PAIRS = 64


def model_folder() -> Path:
    """The model that `make quickstart` trains; where there is none, a tiny untrained one."""
    if QUICKSTART.is_dir():
        return QUICKSTART
    print(f"no {QUICKSTART} yet: an untrained model stands in and writes nonsense")
    config, folder = flamingo_tiny(), EXAMPLES / "untrained"
    size = config.text_config.vocab_size
    FlamingoForConditionalGeneration(config).save_pretrained(folder)
    FlamingoProcessor.from_tokenizer(
        embedded_tokenizer(size), vocab_size=size, image_size=config.vision_config.image_size
    ).save_pretrained(folder)
    return folder


def pairs_folder() -> Path:
    """Generated scenes as `00.png` beside `00.txt`."""
    folder, generator = EXAMPLES / "pairs", np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_PAIRS):
        scene = draw_scene(generator, split="train")
        Image.fromarray(render(scene, generator)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"{full_caption(scene)}, drawn by a computer")
    return folder


def chat(image: Path) -> list[dict[str, object]]:
    """A picture and its caption as a conversation, which processors' chat templates read."""
    asked = [{"type": "image", "image": Image.open(image)}, {"type": "text", "text": "Output:"}]
    caption = f" {image.with_suffix('.txt').read_text()}"
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": caption}]
