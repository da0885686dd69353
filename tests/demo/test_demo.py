"""What a visitor does with the page, in a real browser against the running script."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.demo.serving import Served

pytest.importorskip("playwright")
from playwright.sync_api import expect

from tests.demo.browsing import CHROMIUM, Visit, visiting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium"),
]
FLAMINGO, FLARE = "flamingo", "flare"


@pytest.fixture(scope="module")
def visit(page: Served) -> Iterator[Visit]:
    """At its end: nothing was asked of another machine."""
    with visiting(page.address) as visit:
        yield visit
        assert visit.hosts - {""} == {page.address.removeprefix("http://")}


def a_picture(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "photo.png")
    return folder / "photo.png"


def test_tabs_appear_where_the_model_has_the_ability(visit: Visit) -> None:
    visit.open(FLAMINGO)
    assert visit.seen("[role=tab]").all_inner_texts() == [
        *(FLAMINGO, FLARE),
        *("Few-shot", "Chat", "Retrieval"),
    ]
    visit.open(FLARE, "Retrieval")
    assert visit.seen("[role=tab]").all_inner_texts() == [
        *(FLAMINGO, FLARE),
        *("Describe", "Chat", "Retrieval"),
        *("Text → pictures", "Picture → texts", "Text → sounds", "Sound → texts"),
    ]
    expect(visit.seen(".prose.card")).to_contain_text("FLARE")


def test_an_answer_appears_while_it_is_written_and_can_be_stopped(
    visit: Visit, tmp_path: Path
) -> None:
    visit.open(FLAMINGO, "Chat")
    visit.seen(".label-wrap").click()  # the settings
    visit.seen("input[type=number]").first.fill("1024")
    visit.add(a_picture(tmp_path))
    visit.write("what is it?")
    visit.send()
    expect(visit.answers()).to_have_text(re.compile("[a-z]{5}"))
    first = visit.answers().inner_text()
    expect(visit.answers()).not_to_have_text(first)
    visit.click("Stop")
    visit.wait_until_answered()
    written = visit.answers().inner_text()
    assert len(first) < len(written) < 1000
    assert visit.seen(".conversation img").count() == 1
    # The conversation goes on, and ends when it is told to.
    visit.seen("input[type=number]").first.fill("3")
    visit.write("and now?")
    visit.send()
    expect(visit.answers()).to_have_count(2)
    visit.wait_until_answered()
    visit.click("New conversation")
    expect(visit.answers()).to_have_count(0)


def test_examples_are_shown_and_the_prompt_and_the_attention_stand_beside_the_answer(
    visit: Visit,
) -> None:
    visit.open(FLAMINGO, "Few-shot")
    visit.click("Fill in an example")
    expect(visit.seen(".examples img")).to_have_count(2)
    visit.click("Ask")
    expect(visit.seen(".attention img")).to_have_count(1)
    assert re.fullmatch("[a-z]+", visit.seen(".answer textarea").input_value())
    prompt = visit.seen(".prompt textarea").input_value()
    assert prompt.count("<image>Output:") == 3
    assert prompt.endswith("Output:")


def test_a_picture_and_a_sound_are_described(visit: Visit) -> None:
    visit.open(FLARE, "Describe")
    picture, no_sound = (
        visit.seen("[aria-label='Remove Image']"),
        visit.page.get_by_text("Drop Audio"),
    )
    visit.click("Fill in an example")
    expect(picture).to_have_count(1)
    visit.click("Ask")
    expect(visit.seen(".prompt textarea")).to_have_value(re.compile("<s>(<image>){3}Output:"))
    visit.click("Fill in a sound")
    expect(picture).to_have_count(0)
    expect(no_sound).to_have_count(0)
    visit.click("Ask")
    expect(visit.seen(".prompt textarea")).to_have_value(re.compile("<s>(<audio>){2}Output:"))


def test_pictures_and_texts_are_ranked(visit: Visit) -> None:
    visit.open(FLARE, "Retrieval", "Text → pictures")
    visit.click("Fill in an example")
    expect(visit.seen("textarea")).not_to_have_value("")
    visit.click("Rank")
    captions = visit.seen(".ranked .caption-label")
    expect(captions).to_have_count(6)
    scores = [float(text.split()[1]) for text in captions.all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    visit.open("Sound → texts")
    visit.click("Fill in an example")
    expect(visit.seen("textarea")).not_to_have_value("")
    visit.click("Rank")
    expect(visit.seen(".ranked .what")).to_have_count(12)


def test_a_mistake_is_told_in_a_line_of_the_page(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("no picture")
    visit.open(FLAMINGO, "Chat")
    visit.add(tmp_path / "photo.png")
    visit.send()
    expect(visit.seen(".toast-body")).to_contain_text("cannot decode image photo.png")


def test_the_page_fits_a_telephone(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 800})
    visit.page.reload()
    for tab in ("Chat", "Describe", "Retrieval"):
        visit.open(FLARE, tab)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
