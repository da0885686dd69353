"""The pictures of docs/demo.md, taken from trained models:

    python -m tests.demo.screenshots --model FLAMINGO --model FLARE --model TUNED --out FOLDER

The first two models lie in the folders of their runs; the third is a FLARE or a Flamingo that was
tuned on conversations, in a folder `aligned` (`scripts/instruct.py`).
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import PIL.Image
from playwright.sync_api import expect

from tests.demo.browsing import Visit, visiting
from tests.demo.serving import served

NUM_COLOURS = 256  # enough for a page of few colours, and a part of the bytes


def main() -> None:
    """Write demo_*.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    flamingo, flare, tuned = options.model
    _take(SHOWN, (flamingo, flare), options.out)
    _take(TUNED, (flamingo, tuned), options.out)


def _take(shown: "Shown", models: Sequence[Path], out: Path) -> None:
    with TemporaryDirectory() as folder, served(models, Path(folder) / "log") as page:
        for name, (show, width) in shown.items():
            with visiting(page.address, width=width) as visit:
                show(visit)
                visit.wait_until_answered()
                visit.page.mouse.move(0, 0)
                visit.page.wait_for_timeout(800)  # fading in
                _save(visit, out / f"demo_{name}.png")


def _few_shot(visit: Visit) -> None:
    visit.open("flamingo_tiny", "Few-shot")
    visit.click("Fill in an example")
    expect(visit.seen(".examples img")).to_have_count(2)
    visit.click("Ask")
    expect(visit.seen(".attention img")).to_have_count(1)


def _chat(visit: Visit) -> None:
    visit.open("aligned", "Chat")
    visit.seen(".offers .gallery-item").first.click()
    expect(visit.seen(".message .thumbnail-item")).to_have_count(1)
    visit.send()
    expect(visit.answers()).to_have_count(1)


def _describe(visit: Visit) -> None:
    visit.open("flare_tiny", "Describe")
    visit.click("Fill in a sound")
    expect(visit.page.get_by_text("Drop Audio")).to_have_count(0)
    visit.click("Ask")
    expect(visit.seen(".prompt textarea")).not_to_have_value("")


def _retrieval(visit: Visit) -> None:
    visit.open("flare_tiny", "Retrieval")
    visit.click("Fill in an example")
    expect(visit.seen("textarea")).not_to_have_value("")
    visit.click("Rank")
    expect(visit.seen(".ranked .caption-label")).to_have_count(6)


def _save(visit: Visit, file: Path) -> None:
    visit.page.screenshot(path=file, full_page=True)
    with PIL.Image.open(file) as picture:
        few = picture.convert("RGB").quantize(
            NUM_COLOURS, method=PIL.Image.Quantize.MAXCOVERAGE, dither=PIL.Image.Dither.NONE
        )
    few.save(file, optimize=True)


Shown = dict[str, tuple[Callable[[Visit], None], int]]
SHOWN: Shown = {
    "few_shot": (_few_shot, 1280),
    "describe": (_describe, 1280),
    "retrieval": (_retrieval, 1280),
    "telephone": (_retrieval, 390),
}
TUNED: Shown = {"chat": (_chat, 1280)}


if __name__ == "__main__":
    main()
