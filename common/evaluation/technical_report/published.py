"""Figures that others have published, each with where it was read, to be set beside those of a run.
Only figures whose source was at hand are here: a hole in a row is not a zero."""

from collections.abc import Mapping
from dataclasses import dataclass

FLAMINGO = "Alayrac et al. 2022, arXiv:2204.14198, by third-party notes of the paper"
IDEFICS = "model card of HuggingFaceM4/idefics-80b on the Hub"
OPEN_FLAMINGO_1 = "MODEL_CARD.md of https://github.com/mlfoundations/open_flamingo (first release)"
OPEN_FLAMINGO_2 = "README.md of https://github.com/mlfoundations/open_flamingo, commit 655f693"
CONTRASTIVE = (
    "https://paperswithcode.com/paper/flamingo-a-visual-language-model-for-few-shot-1 "
    "(the contrastive encoder of arXiv:2204.14198)"
)
OPEN_CLIP = "README.md of https://github.com/mlfoundations/open_clip"
ESC50 = "https://pymill.com/docs/reproducibility/esc50"
AUDIO_CAPS = "abstract of arXiv:2308.15090 (a captioner that ranks by its loss)"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a model reached on a benchmark; by number of shots, None where it has no meaning."""

    benchmark: str  # as our suites name it
    metric: str
    model: str
    source: str
    figures: Mapping[int | None, float]
    remark: str = ""


def _vqa(model: str, source: str, figures: Mapping[int | None, float]) -> Published:
    return Published(
        benchmark="VQAv2", metric="VQA accuracy", model=model, source=source, figures=figures
    )


def _ok_vqa(model: str, source: str, figures: Mapping[int | None, float]) -> Published:
    return Published(
        benchmark="OK-VQA", metric="VQA accuracy", model=model, source=source, figures=figures
    )


def _coco(
    model: str, source: str, figures: Mapping[int | None, float], remark: str = ""
) -> Published:
    return Published(
        benchmark="COCO (Karpathy) captions",
        metric="CIDEr-D",
        model=model,
        source=source,
        figures=figures,
        remark=remark,
    )


def _one(benchmark: str, metric: str, model: str, source: str, value: float) -> Published:
    return Published(
        benchmark=benchmark, metric=metric, model=model, source=source, figures={None: value}
    )


SAW_COCO = "its training data hold COCO"
COCO_RETRIEVAL, FLICKR_RETRIEVAL = "COCO (Karpathy) retrieval", "Flickr30k retrieval"
ENCODER = "Flamingo's contrastive encoder"
PUBLISHED: tuple[Published, ...] = (
    _vqa("Flamingo-80B", FLAMINGO, {0: 56.3, 4: 63.1, 32: 67.6}),
    _vqa("Flamingo-9B", FLAMINGO, {4: 56.3}),
    _vqa("Flamingo-3B", FLAMINGO, {4: 53.2}),
    _vqa("IDEFICS-80B", IDEFICS, {0: 60.0, 4: 63.6, 8: 64.8, 16: 65.4, 32: 65.9}),
    _vqa("IDEFICS-9B", IDEFICS, {0: 50.9, 4: 55.4, 8: 56.4, 16: 57.0, 32: 57.9}),
    _vqa("OpenFlamingo-9B v2", OPEN_FLAMINGO_2, {4: 54.8}),
    _vqa(
        "OpenFlamingo-9B v1", OPEN_FLAMINGO_1, {0: 43.55, 4: 44.05, 8: 47.5, 16: 48.87, 32: 50.34}
    ),
    _ok_vqa("Flamingo-80B", FLAMINGO, {4: 57.4, 32: 57.8}),
    _ok_vqa("Flamingo-9B", FLAMINGO, {4: 49.3}),
    _ok_vqa("Flamingo-3B", FLAMINGO, {4: 43.3}),
    _ok_vqa("IDEFICS-80B", IDEFICS, {0: 45.2, 4: 52.4, 8: 55.1, 16: 56.8, 32: 57.8}),
    _ok_vqa("IDEFICS-9B", IDEFICS, {0: 38.4, 4: 45.5, 8: 47.7, 16: 48.4, 32: 49.6}),
    _coco("Flamingo-80B", FLAMINGO, {0: 84.3, 4: 103.2, 32: 113.8}),
    _coco("Flamingo-9B", FLAMINGO, {0: 79.4, 4: 93.1, 32: 106.3}),
    _coco("Flamingo-3B", FLAMINGO, {0: 73.0, 4: 85.0, 32: 99.0}),
    _coco("IDEFICS-80B", IDEFICS, {0: 91.8, 4: 110.3, 8: 114.3, 16: 116.6, 32: 116.6}, SAW_COCO),
    _coco("IDEFICS-9B", IDEFICS, {0: 46.0, 4: 93.0, 8: 97.0, 16: 99.7, 32: 98.0}, SAW_COCO),
    _coco("OpenFlamingo-9B v2", OPEN_FLAMINGO_2, {4: 89.0}),
    _coco(
        "OpenFlamingo-9B v1", OPEN_FLAMINGO_1, {0: 65.52, 4: 74.28, 8: 79.26, 16: 81.84, 32: 84.52}
    ),
    _one(COCO_RETRIEVAL, "R@1 image to text", ENCODER, CONTRASTIVE, 65.9),
    _one(COCO_RETRIEVAL, "R@5 image to text", ENCODER, CONTRASTIVE, 87.3),
    _one(COCO_RETRIEVAL, "R@10 image to text", ENCODER, CONTRASTIVE, 92.9),
    _one(COCO_RETRIEVAL, "R@1 text to image", ENCODER, CONTRASTIVE, 48.0),
    _one(COCO_RETRIEVAL, "R@5 text to image", ENCODER, CONTRASTIVE, 73.3),
    _one(COCO_RETRIEVAL, "R@10 text to image", ENCODER, CONTRASTIVE, 82.1),
    _one(FLICKR_RETRIEVAL, "R@1 image to text", ENCODER, CONTRASTIVE, 89.3),
    _one(FLICKR_RETRIEVAL, "R@5 image to text", ENCODER, CONTRASTIVE, 98.8),
    _one(FLICKR_RETRIEVAL, "R@10 image to text", ENCODER, CONTRASTIVE, 99.7),
    _one(FLICKR_RETRIEVAL, "R@1 text to image", ENCODER, CONTRASTIVE, 79.5),
    _one(FLICKR_RETRIEVAL, "R@5 text to image", ENCODER, CONTRASTIVE, 95.3),
    _one("ImageNet zero-shot", "top-1 accuracy", "OpenCLIP ViT-H/14, LAION-2B", OPEN_CLIP, 78.0),
    _one("ImageNet zero-shot", "top-1 accuracy", "OpenCLIP ViT-L/14, LAION-2B", OPEN_CLIP, 75.3),
    _one("ESC-50 zero-shot", "accuracy", "CLAP (arXiv:2206.04769)", ESC50, 82.6),
    _one("ESC-50 zero-shot", "accuracy", "LAION-CLAP, htsat-unfused", ESC50, 91.55),
    _one("AudioCaps retrieval", "R@1 text to sound", "ConvNeXt captioner", AUDIO_CAPS, 38.2),
)


def published_of(benchmark: str, metric: str) -> list[Published]:
    """What is known of a benchmark in one metric."""
    return [row for row in PUBLISHED if (row.benchmark, row.metric) == (benchmark, metric)]
