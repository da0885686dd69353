"""Pictures of an evaluation: accuracy by number of shots, one episode with its answer, and the
image that each word looks at. Written through matplotlib's object interface: no global figure, no
display."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.data.document import Image
from common.evaluation.few_shot import Answer, Control, FewShotEvaluation, FewShotSplit

DOTS_PER_INCH = 130
LINES: dict[Control, tuple[str, str, str]] = {
    "none": ("#1f4e9c", "o-", "nothing changed"),
    "images_shuffled": ("#d1741f", "s--", "images shuffled"),
    "text_only": ("#5a8f3c", "^--", "text only, no images"),
    "shots_removed": ("#8b3fa0", "D", "shots removed"),
}
DODGE = 0.07  # sideways, so that intervals at the same number of shots stay apart
WORDS_PER_ROW = 8


def shots_picture(evaluation: FewShotEvaluation, path: Path) -> None:
    """Accuracy against shots with 95 % intervals; one panel for each split."""
    splits = evaluation.config.splits
    figure = Figure(figsize=(4.2 * len(splits) + 2.2, 4.0), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        _draw_split(axes, evaluation, split)
    panels[0].set_ylabel("answers right (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    _save(figure, path)


def answer_picture(answer: Answer, path: Path) -> None:
    """The images of an episode in reading order, each above its text; the last is the query."""
    episode = answer.episode
    images = [*(shot.image for shot in episode.shots), episode.query.image]
    verdict = "right" if answer.is_correct else f"expected: {episode.query.answer}"
    captions = [shot.answer for shot in episode.shots]
    captions.append(f"model: {answer.text.strip() or '(nothing)'}\n({verdict})")
    figure = Figure(figsize=(1.7 * len(images) + 0.3, 2.5), layout="constrained")
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    for place, (axes, image, caption) in enumerate(zip(panels, images, captions, strict=True), 1):
        is_query = place == len(images)
        colour = "black" if not is_query else "#2a7a2a" if answer.is_correct else "#b02020"
        axes.imshow(image)
        axes.set_title("query" if is_query else f"shot {place}", fontsize=10)
        axes.set_xlabel(caption, fontsize=11, color=colour)
        axes.set(xticks=[], yticks=[])
    _save(figure, path)


def attention_picture(
    images: Sequence[Image],
    words: Sequence[str],
    mass: Float[np.ndarray, "s m"],
    *,
    path: Path,
    heat_maps: Float[np.ndarray, "s rows columns"] | None = None,
) -> None:
    """Which image each word looks at, and where in it.

    Args:
        mass: share of each word's media attention on each image; a row of zeros sees no image.
        heat_maps: attention of each word over the patches of the image that it looks at most.
    """
    if mass.shape != (len(words), len(images)):
        raise ValueError(f"{mass.shape=} does not fit {len(words)} words x {len(images)} images")
    rows = 0 if heat_maps is None else -(-len(words) // WORDS_PER_ROW)
    width = max(1.15 * len(images) + 2.4, 1.3 * min(len(words), WORDS_PER_ROW) * bool(rows), 5.0)
    matrix_height = 0.30 * len(words) + 0.7
    heights = [1.6 + matrix_height, *[1.75] * rows]
    figure = Figure(figsize=(width, sum(heights) + 0.6), layout="constrained")
    bands = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    grid = bands[0].add_gridspec(2, len(images), height_ratios=[1.6, matrix_height])
    _draw_images([bands[0].add_subplot(grid[0, n]) for n in range(len(images))], images)
    _draw_mass(bands[0].add_subplot(grid[1, :]), words, mass)
    for row, band in enumerate(bands[1:]):
        shown = range(row * WORDS_PER_ROW, min((row + 1) * WORDS_PER_ROW, len(words)))
        panels = list(band.subplots(1, WORDS_PER_ROW, squeeze=False)[0])
        assert heat_maps is not None
        _draw_heat_maps(panels, shown, images=images, words=words, mass=mass, heat_maps=heat_maps)
    _save(figure, path)


def _draw_split(axes: Axes, evaluation: FewShotEvaluation, split: FewShotSplit) -> None:
    shots = sorted({*evaluation.config.shots, *evaluation.config.control_shots})
    ours = [row for row in evaluation.results if row.split == split]
    for place, (control, (colour, style, label)) in enumerate(LINES.items()):
        rows = sorted((r for r in ours if r.control == control), key=lambda row: row.shots)
        if not rows:
            continue
        shares = np.array([row.total.accuracy for row in rows])
        ends = np.array([row.total.interval for row in rows]).T
        axes.errorbar(
            [shots.index(row.shots) + DODGE * place for row in rows],
            100 * shares,
            yerr=100 * np.abs(ends - shares),
            fmt=style,
            color=colour,
            label=label,
            capsize=3,
            linewidth=2 if control == "none" else 1.2,
        )
    axes.axhline(100 * ours[0].prior, color="0.35", dashes=(4, 3), label="most frequent answer")
    axes.axhline(100 * ours[0].chance, color="0.55", linestyle=":", label="chance")
    axes.set_title(f"{split.replace('_', ' ')} (n = {ours[0].total.num} each)", fontsize=11)
    axes.set_xticks(range(len(shots)), labels=[str(number) for number in shots])
    axes.set(xlabel="shots before the query", ylim=(-3, 103), xlim=(-0.4, len(shots) - 0.6))
    axes.grid(axis="y", alpha=0.3)


def _draw_images(panels: Sequence[Axes], images: Sequence[Image]) -> None:
    for number, (axes, image) in enumerate(zip(panels, images, strict=True), 1):
        axes.imshow(image)
        axes.set_title(f"image {number}", fontsize=10)
        axes.set(xticks=[], yticks=[])


def _draw_mass(axes: Axes, words: Sequence[str], mass: Float[np.ndarray, "s m"]) -> None:
    axes.imshow(mass, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for word, image in np.ndindex(*mass.shape):
        share = mass[word, image]
        if share >= 0.005:
            colour = "white" if share > 0.6 else "black"
            axes.text(image, word, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(mass.shape[1]), labels=[f"image {n + 1}" for n in range(mass.shape[1])])
    axes.set_xlabel("share of the word's attention to images (%)")
    axes.set_yticks(range(len(words)), labels=words)
    axes.set_ylabel("words, in reading order")


def _draw_heat_maps(
    panels: Sequence[Axes],
    shown: range,
    *,
    images: Sequence[Image],
    words: Sequence[str],
    mass: Float[np.ndarray, "s m"],
    heat_maps: Float[np.ndarray, "s rows columns"],
) -> None:
    for axes in panels:
        axes.set_axis_off()
    for axes, word in zip(panels, shown, strict=False):
        looked_at = int(mass[word].argmax())
        sees = mass[word].sum() > 0
        axes.set_title(f"{words[word]}\n{f'image {looked_at + 1}' if sees else 'no image'}", size=9)
        picture = images[looked_at]
        axes.imshow(_lit(picture, heat_maps[word]) if sees else np.full_like(picture, 235))


def _lit(image: Image, heat: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "y x c"]:
    """The image in grey, tinted where the word looks."""
    rows = np.arange(image.shape[0]) * heat.shape[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * heat.shape[1] // image.shape[1]
    strength = rearrange((heat / max(heat.max(), 1e-12))[np.ix_(rows, columns)], "y x -> y x 1")
    grey = image.mean(axis=2, keepdims=True) / 255
    tint = np.array([1.0, 0.75, 0.1])
    return grey * (1 - 0.7 * strength) + tint * 0.7 * strength


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
