"""Data sets from the command line: what is written, that it goes on where it stopped, and one line
for every mistake."""

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.data.shards.corpus import open_shards
from flamingo.corpora import embedded_tokenizer
from flamingo.processing import FlamingoProcessor
from flamingo.recipes import flamingo_tiny
from flamingo.task import FlamingoTask
from flamingo.vision_pretraining import ContrastiveTask, tiny_contrastive
from flare.corpora import draw_of
from flare.recipes import flare_tiny, make_task
from scripts.prepare_data import main
from tests.distributed.launch import run_script


def photos(folder: Path, *, num: int = 5, first: int = 0) -> Path:
    """Pictures that no hash takes for one another, with captions."""
    folder.mkdir()
    for number in range(first, first + num):
        coarse = np.random.default_rng(number).integers(256, size=(6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((75, 60), Image.Resampling.BICUBIC).save(
            folder / f"{number:02}.png"
        )
        (folder / f"{number:02}.txt").write_text(f"a patchwork of colours, number {number}")
    return folder


def members_of(folder: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert member.name not in members
                members[member.name] = archive.extractfile(member).read()
    return members


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a mistake gives."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ")
    assert output.count("\n") == 1
    return output


def test_a_mistake_gives_one_clear_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, empty = photos(tmp_path / "photos"), tmp_path / "empty"
    empty.mkdir()
    run("ingest", "images", pictures, shards := tmp_path / "shards")
    table = tmp_path / "a.parquet"
    table.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    unread = ("ingest", "text", table, tmp_path / "texts")
    missing, new = tmp_path / "no" / "such", tmp_path / "new"
    cases: list[tuple[str, tuple[object, ...]]] = [
        ("does not exist; check the path", ("index", missing)),
        ("holds no shard (*.tar or *.jsonl)", ("index", empty)),
        ("it has no index; run `python scripts/prepare_data.py index", ("inspect", _bare(shards))),
        ("is no folder; give one, or flare_tiny or flamingo_tiny", ("index", shards, *_with("no"))),
        ("holds no tokenizer; it needs a tokenizer.json", ("index", shards, *_with(empty))),
        ("tokens are not counted", ("inspect", shards, *_with("flare_tiny"))),
        ("source", ("ingest", "images", missing, new)),
        ("give at least one source", ("ingest", "images", pictures)),
        ("is not empty; choose another one", ("ingest", "images", pictures, pictures)),
        ("with another kind", ("ingest", "sounds", pictures, shards)),
        ("needs pyarrow; run `pip install 'flare-flamingo[ingest]'`", unread),
        ("no filter is asked for", ("filter", shards, new)),
        ("is not empty; choose another folder", ("filter", shards, pictures, "--copies")),
        ("nothing of", ("filter", shards, new, "--min-side", 999)),
        ("no model with its processor", ("filter", shards, new, "--dual-encoder", empty)),
        ("must be at least 1", ("filter", shards, new, "--copies", "--num-workers", 0)),
        ("go to a .png file", ("inspect", shards, "--pictures", "sheet.docx")),
        ("use at least 1", ("embedded", new, "--num", 0)),
        ("--min-sid", ("filter", shards, new, "--min-sid", 3)),
    ]
    for message, words in cases:
        assert message in mistake(capsys, *words), words


def _bare(shards: Path) -> Path:
    """The same shards without an index."""
    folder = shards.with_name("bare")
    folder.mkdir()
    (folder / "00000.tar").write_bytes((shards / "00000.tar").read_bytes())
    return folder


def _with(tokenizer: object) -> tuple[object, ...]:
    return ("--tokenizer", tokenizer)


def test_an_ingest_goes_on_where_it_stopped_and_repeats_nothing(tmp_path: Path) -> None:
    first, second = photos(tmp_path / "a"), photos(tmp_path / "b", num=4, first=50)
    out = tmp_path / "shards"
    words = ("ingest", "images", first, second, out, "--samples-per-shard", 2)
    run(*words)
    whole = members_of(out)
    assert len(whole) == 2 * 9
    ledger = out / ".ingested.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    # Killed while it noted the second source, whose shards are there.
    ledger.write_text("".join(lines[:2]) + lines[2][:30])
    (first / "00.txt").write_text("changed, but finished sources are not read again")
    run(*words)
    assert members_of(out) == whole
    assert ledger.read_text().splitlines(keepends=True) == lines
    run(*words[:4], photos(tmp_path / "c", num=3, first=90), *words[4:])
    assert len(members_of(out)) == 2 * 12
    assert len(open_shards(out)) == 12


def test_a_source_of_which_nothing_could_be_written_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, folder = tmp_path / "pairs.csv", tmp_path / "pictures"
    folder.mkdir()
    table.write_text("image,text\n01.png,a patchwork\n")
    words = ("ingest", "csv", table, tmp_path / "shards", "--media", folder)
    assert "the first fault: there is no file for 01.png" in mistake(capsys, *words)
    (folder / "01.png").write_bytes((photos(tmp_path / "photos") / "01.png").read_bytes())
    run(*words)
    assert len(open_shards(tmp_path / "shards")) == 1


def test_tokens_are_counted_as_every_model_will_ask_for_them(tmp_path: Path) -> None:
    run("ingest", "images", photos(tmp_path / "photos"), out := tmp_path / "shards")
    for name in ("flare_tiny", "flamingo_tiny"):
        run("index", out, "--tokenizer", name)
    bridge = replace(flamingo_tiny().task, vision_encoder=None, language_model=None)
    asking = [
        make_task(flare_tiny()).processor.tokenizer,
        FlamingoTask(bridge).processor.tokenizer,
        ContrastiveTask(tiny_contrastive()).tokenizer,
    ]
    for tokenizer in asking:
        corpus = open_shards(out, tokenizer=tokenizer)
        caption = tokenizer(corpus.read(3).caption, add_special_tokens=False)
        assert corpus.extent(3).tokens == len(caption["input_ids"])


def test_a_folder_of_a_language_model_serves_flare_and_flamingo(tmp_path: Path) -> None:
    rows, folder = 1031, tmp_path / "language_model"
    embedded_tokenizer(700).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
    run("ingest", "images", photos(tmp_path / "photos"), out := tmp_path / "shards")
    run("index", out, "--tokenizer", folder)
    tokenizer = embedded_tokenizer(700)
    FlamingoProcessor.from_tokenizer(tokenizer, vocab_size=rows, image_size=32)
    assert len(tokenizer) == rows + 2
    assert open_shards(out, tokenizer=tokenizer).extent(0).num_images == 1
    assert len(open_shards(out, tokenizer=embedded_tokenizer(700))) == 5


def test_filters_leave_out_what_they_count_and_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, evaluation = photos(tmp_path / "photos", num=8), tmp_path / "evaluation"
    evaluation.mkdir()
    with Image.open(pictures / "02.png") as picture:
        picture.save(evaluation / "of-the-test.jpg", quality=80)
    with Image.open(pictures / "04.png") as picture:
        picture.save(pictures / "90.jpg", quality=80)
        picture.resize((31, 33)).save(pictures / "91.png")
    (pictures / "90.txt").write_text("another wording of the fourth")
    (pictures / "91.txt").write_text("a picture that is too small")
    (pictures / "05.txt").write_text("DSC_0042.jpg")
    run("ingest", "images", pictures, out := tmp_path / "shards")
    wanted = ("--min-side", 50, "--captions", "--copies", "--evaluation-images", evaluation)
    words = ("filter", out, tmp_path / "clean", *wanted, "--samples-per-shard", 4)
    run(*words)
    kept = members_of(tmp_path / "clean")
    before = members_of(out)
    numbers = [f"{number:02}" for number in (0, 1, 3, 4, 6, 7)]
    expected = {
        f"00000/{number}-png.{extension}": before[f"{number}-png.{extension}"]
        for number in numbers
        for extension in ("png", "txt")
    }
    assert kept == expected
    matches = json.loads((tmp_path / "clean" / "contamination.json").read_text())
    assert [match["key"] for match in matches] == ["00000/02-png"]
    shown = capsys.readouterr().out
    reasons = ("evaluation_image", "near_duplicate_image", "image_small", "text_short")
    assert all(f"left out: {reason}" in shown for reason in reasons)
    (tmp_path / "clean" / "00001.tar").unlink()  # as if it had been killed before
    run(*words)
    assert members_of(tmp_path / "clean") == kept
    assert "not empty" in mistake(capsys, *words, "--max-aspect", 3)


def test_texts_are_filtered_into_json_lines(tmp_path: Path) -> None:
    lines = [{"id": f"p{n}", "text": "one two three" if n == 4 else f"text {n}"} for n in range(5)]
    lines.append({"id": "again", "text": " One two  three"})
    source = tmp_path / "pages.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("ingest", "text", source, tmp_path / "texts")
    run("filter", tmp_path / "texts", tmp_path / "clean", "--copies")
    written = (tmp_path / "clean" / "00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in written] == [line["text"] for line in lines[:5]]


def test_generated_documents_are_stored_once_in_training_order(tmp_path: Path) -> None:
    run("embedded", tmp_path, "--num", 6)
    shards = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.tar"))}
    assert {path.parent.name for path in shards} == {"scenes", "sounds", "digits", "mixed", "prose"}
    run("embedded", tmp_path, "--num", 6)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.tar"))} == shards
    tokenizer = make_task(flare_tiny()).processor.tokenizer
    corpus = open_shards(tmp_path / "scenes", tokenizer=tokenizer)
    draw = draw_of("scenes", split="train", seed=0, family_size=flare_tiny().task.family_size)
    for index in range(6):
        for stored, drawn in zip(corpus.read(index).parts, draw(index).parts, strict=True):
            assert np.array_equal(stored, drawn)


def test_other_documents_are_not_taken_for_the_stored_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("embedded", tmp_path, "--model", "flamingo", "--num", 3)
    assert len(open_shards(tmp_path / "pairs")) == 3
    output = mistake(capsys, "embedded", tmp_path, "--model", "flamingo", "--num", 4)
    assert "holds documents of other settings" in output


@pytest.mark.slow
def test_files_become_shards_are_filtered_and_trained_on(tmp_path: Path) -> None:
    pictures, sounds = photos(tmp_path / "photos", num=30), tmp_path / "sounds"
    (pictures / "03.png").with_name("99.png").write_bytes((pictures / "03.png").read_bytes())
    (pictures / "99.txt").write_text("the same file again")
    sounds.mkdir()
    for number in range(30):
        wave = 0.3 * np.sin(np.arange(6000) * 0.02 * (number + 1))
        soundfile.write(sounds / f"{number}.flac", wave, 22_050)
        (sounds / f"{number}.txt").write_text(f"tone number {number}")
    tokens = ("--tokenizer", "flare_tiny")
    run("ingest", "images", pictures, tmp_path / "pairs")
    run("index", tmp_path / "pairs", *tokens)
    sheet = tmp_path / "sheet.png"
    words = ["inspect", tmp_path / "pairs", *tokens, "--read", "--pictures", sheet]
    command = [sys.executable, "scripts/prepare_data.py", *map(str, words)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "a patchwork of colours" in shown.stdout
    assert sheet.stat().st_size > 50_000
    run("filter", tmp_path / "pairs", tmp_path / "clean", "--copies", *tokens)
    run("ingest", "sounds", sounds, tmp_path / "tones", *tokens)
    sources = [("image_pairs", tmp_path / "clean"), ("audio_pairs", tmp_path / "tones")]
    options = [
        word
        for number, (kind, path) in enumerate(sources)
        for word in (
            *(f"--task.sources.{number}.kind", kind),
            *(f"--task.sources.{number}.path", path),
        )
    ]
    few = ("--steps", 2, "--schedule.warmup-steps", 1, "--task.batch-size", 4, "--sample-every", 2)
    place = ("--run-folder", tmp_path / "run", "--num-micro-batches", 2)
    trained = run_script("scripts/train_flare.py", "flare_tiny", *options, *few, *place)
    assert trained.returncode == 0, trained.stderr
    assert "finished at step 2" in trained.stdout
    assert "image_pairs: " in trained.stdout
