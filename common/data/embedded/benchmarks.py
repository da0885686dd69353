"""Generated scenes and sounds laid out as the official files of benchmarks are, so that every
evaluation can be tried without a download: VQAv2, OK-VQA, COCO, a folder of image classes as
ImageNet's, ESC-50, AudioSet, AudioCaps and Clotho. What is evaluated (`val`, `test`, `evaluation`)
shows combinations that training never does; what demonstrations are drawn from shows trained ones.

    coco/{train,val}2014/COCO_val2014_000000000042.jpg
    coco/annotations/captions_{train,val}2014.json, coco/dataset_coco.json
    vqav2/v2_OpenEnded_mscoco_{train,val}2014_questions.json, v2_mscoco_..._annotations.json
    ok_vqa/OpenEnded_mscoco_{train,val}2014_questions.json, mscoco_..._annotations.json
    imagenet/{train,val}/n00000001/ILSVRC2012_val_00000001.JPEG, LOC_synset_mapping.txt,
        templates.txt
    esc50/meta/esc50.csv, esc50/audio/5-100001-A-3.wav
    audio_set/{balanced_train,eval}_segments.csv, class_labels_indices.csv, {train,eval}/ID.wav
    audio_caps/{train,test}.csv, {train,test}/ID_30.wav
    clotho/clotho_captions_{development,evaluation}.csv, {development,evaluation}/*.wav
"""

import json
import shutil
from pathlib import Path

from common.data.embedded.benchmark_images import write_classes, write_photos, write_questions
from common.data.embedded.benchmark_sounds import (
    write_audio_caps,
    write_audio_set,
    write_clotho,
    write_esc50,
)
from common.errors import UserError

MADE_BY = ".made-by.json"
VERSION = 1  # counts when other files come of the same arguments


def write_benchmarks(folder: Path, *, num: int, seed: int) -> None:
    """Write all of them: `num` images and `num` sounds to evaluate in each, and as many to draw
    demonstrations from. A folder that was made by the same arguments is left as it is.

    Raises:
        UserError: the folder holds anything else, or `num` is none.
    """
    if num < 1:
        raise UserError(f"--num {num} images are nothing to write; use at least 1")
    claim = json.dumps({"num": num, "seed": seed, "version": VERSION})
    made_by = folder / MADE_BY
    if made_by.exists() and made_by.read_text(encoding="utf-8") == claim:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; choose another folder")
    # Under another name until it is whole; what a stopped run left there is made anew.
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _write_all(unfinished, num=num, seed=seed)
    (unfinished / MADE_BY).write_text(claim, encoding="utf-8")
    unfinished.replace(folder)


def _write_all(folder: Path, *, num: int, seed: int) -> None:
    photos = write_photos(folder / "coco", num=num, seed=seed)
    write_questions(folder, photos, seed=seed)
    write_classes(folder / "imagenet", num=num, seed=seed)
    write_esc50(folder / "esc50", num=num, seed=seed)
    write_audio_set(folder / "audio_set", num=num, seed=seed)
    write_audio_caps(folder / "audio_caps", num=num, seed=seed)
    write_clotho(folder / "clotho", num=num, seed=seed)
