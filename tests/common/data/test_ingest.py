"""Ingest of published formats: sources are written by other libraries or by hand, shards are read
back by `tarfile` and `json`; texts, their order and the media's bytes must be the same."""

import csv
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from common.data.faults import BadSample
from common.data.ingest.interleaved import ingest_interleaved
from common.data.ingest.media import MediaStore, read_addresses
from common.data.ingest.mmc4 import MatchedImage, ingest_mmc4, place_images
from common.data.ingest.obelics import ingest_obelics
from common.data.ingest.pairs import (
    ingest_audio_folder,
    ingest_coco,
    ingest_csv,
    ingest_image_folder,
    ingest_json_lines,
)
from common.data.ingest.report import IngestReport
from common.data.shards.writer import ShardWriter
from common.errors import UserError

Sample = dict[str, bytes]  # extension -> content


def digest(address: str) -> str:
    return sha256(address.encode()).hexdigest()


def image_bytes(number: int, *, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (5, 7), (number, 90, 200)).save(stream, kind)
    return stream.getvalue()


RED, BLUE, GREEN = image_bytes(1, kind="JPEG"), image_bytes(2), image_bytes(3, kind="WEBP")


def samples_in(folder: Path) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                samples.setdefault(key, {})[extension] = archive.extractfile(member).read()
    return samples


def parts_of(sample: Sample) -> list[str | bytes]:
    """Texts and encoded media in reading order."""
    record = json.loads(sample["json"])
    lists = (record[field] for field in ("texts", "images", "audios") if field in record)
    rows = zip(*lists, strict=True)
    slots = [(row[0], next((name for name in row[1:] if name), None)) for row in rows]
    return [text if name is None else sample[name] for text, name in slots]


def tars(folder: Path, ingest: Callable[[ShardWriter], IngestReport]) -> IngestReport:
    with ShardWriter(folder / "shards") as writer:
        return ingest(writer)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def json_lines(*records: object) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def test_obelics_documents_keep_texts_order_and_image_bytes(tmp_path: Path) -> None:
    url = "http://example.org/{}.jpg".format
    media = write_files(tmp_path / "media", {"r.jpg": RED, digest(url("b")): BLUE})
    columns = {
        "images": [[url("a"), None, url("b")], [url("gone"), None], [None, url("gone"), url("a")]],
        "texts": [[None, "über\n\nzwei ", None], [None, "text"], ["one", None, None]],
        "metadata": ["[null]", "[]", "{}"],
        "general_metadata": ["{}", "{}", "{}"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train-0.1.parquet")
    find = MediaStore(media, addresses={url("a"): "r.jpg"})
    report = tars(
        tmp_path, lambda writer: ingest_obelics(tmp_path / "train-0.1.parquet", writer, find=find)
    )
    samples = samples_in(tmp_path / "shards")
    assert list(samples) == ["train-0-1-0", "train-0-1-2"]
    assert parts_of(samples["train-0-1-0"]) == [RED, "über\n\nzwei ", BLUE]
    assert parts_of(samples["train-0-1-2"]) == ["one", RED]
    assert json.loads(samples["train-0-1-0"]["json"])["images"] == ["0.jpg", None, "2.png"]
    assert (report.written, report.left_out) == (2, Counter(media_missing=2))
    assert report.faults == Counter(media_missing=1)
    assert "has no image or sound" in report.examples["media_missing"]
    assert "there is no file for" in report.left_out_examples["media_missing"]


def test_one_bad_row_of_parquet_costs_only_itself(tmp_path: Path) -> None:
    texts = [
        [b"\xff", None],
        [b"first", None],
        [b"second"],
        [b"third", b"fourth"],
        [b"fifth", None],
    ]
    images = [[None, "a"], [None, "a"], [None, "a"], [None, "a"], [None, "page"]]
    rows = pyarrow.array(texts, pyarrow.list_(pyarrow.binary())).view(
        pyarrow.list_(pyarrow.string())
    )
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"texts": rows, "images": images}), path)
    store = {"a": RED, "page": b"<html>404</html>"}
    report = tars(tmp_path, lambda writer: ingest_obelics(path, writer, find=store.get))
    samples = samples_in(tmp_path / "shards")
    assert [parts_of(sample) for sample in samples.values()] == [["first", RED]]
    assert report.faults == Counter(text_encoding=1, json_invalid=2, media_missing=1)
    assert report.left_out == Counter(image_corrupt=1)
    assert "row 0" in report.examples["text_encoding"]


def mmc4_record(*names: str, sentences: list[str], matrix: list[list[float]]) -> dict[str, object]:
    best = [int(np.argmax(row)) for row in matrix]
    infos = [
        {"image_name": name, "raw_url": f"http://x/{name}", "matched_text_index": index}
        for name, index in zip(names, best, strict=True)
    ]
    return {"text_list": sentences, "image_info": infos, "similarity_matrix": matrix}


def test_mmc4_images_stand_before_their_sentences_in_order(tmp_path: Path) -> None:
    record = mmc4_record(
        "r.jpg",
        "b.png",
        "g.webp",
        "gone.jpg",
        sentences=["Zero.", "Eins ä.", "Two.", "Three."],
        matrix=[
            [0.10, 0.26, 0.31, 0.25],  # loses sentence 2 to the next one, takes 1
            [0.25, 0.24, 0.35, 0.20],
            [0.30, 0.29, 0.28, 0.27],
            [0.20, 0.20, 0.20, 0.90],  # is not found, so it takes no place
        ],
    )
    path = tmp_path / "docs_v2.1.jsonl.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("docs.jsonl", b"{broken\n\n" + json_lines(record))
    store = {"r.jpg": RED, "http://x/b.png": BLUE, "g.webp": GREEN}
    report = tars(tmp_path, lambda writer: ingest_mmc4(path, writer, find=store.get))
    (sample,) = samples_in(tmp_path / "shards").values()
    assert parts_of(sample) == [GREEN, "Zero.", RED, "Eins ä.", BLUE, "Two. Three."]
    assert (report.written, report.faults) == (1, Counter(json_invalid=1))
    assert (report.left_out, report.unplaced) == (Counter(media_missing=1), 0)


def test_an_image_without_a_near_free_sentence_is_left_out() -> None:
    def image(*similarities: float) -> MatchedImage:
        best = int(np.argmax(similarities))
        return MatchedImage(names=("x",), sentence=best, similarities=similarities)

    rivals = [image(0.30, 0.26), image(0.40, 0.25), image(0.35, 0.29)]
    assert place_images(rivals, min_similarity=0.24) == {0: 1, 1: 2}
    assert place_images(rivals, min_similarity=0.30) == {0: 1}
    wider = [image(0.30, 0.26, 0.25), image(0.40, 0.25, 0.1), image(0.35, 0.29, 0.28)]
    assert place_images(wider, min_similarity=0.24) == {0: 1, 1: 2, 2: 0}
    # The weakest image keeps its own sentence, which a moving one would like.
    assert place_images([*rivals, image(0.1, 0.245)], min_similarity=0.24) == {0: 1, 1: 3}
    assert place_images([image(0.2, 0.1)], min_similarity=0.24) == {}


def test_malformed_mmc4_records_are_counted(tmp_path: Path) -> None:
    good = mmc4_record("r.jpg", sentences=["A.", "B."], matrix=[[0.3, 0.2]])
    lines = json_lines(
        good | {"similarity_matrix": [[0.3]]},
        good | {"similarity_matrix": []},
        good | {"text_list": ["A.", None]},
        good | {"image_info": [{"image_name": "r.jpg", "matched_text_index": 2}]},
        good | {"image_info": [None]},
        good | {"image_info": [], "similarity_matrix": []},
        good,
    )
    path = write_files(tmp_path, {"d.jsonl": lines}) / "d.jsonl"
    report = tars(tmp_path, lambda writer: ingest_mmc4(path, writer, find={"r.jpg": RED}.get))
    assert report.written == 1
    assert report.faults == Counter(json_invalid=5, media_missing=1)


def test_folders_of_pairs_keep_the_files_bytes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", np.full(900, 0.3), 22_050)
    sound = (tmp_path / "hum.wav").read_bytes()
    files = {"sub/a.b.jpg": RED, "sub/a.b.txt": b" a red card\n", "c.png": b"no image"}
    images = write_files(tmp_path / "images", files | {"c.txt": b"a page"})
    sounds = write_files(tmp_path / "sounds", {"s.wav": sound, "s.txt": b"tiefes Brummen"})
    report = tars(images, lambda writer: ingest_image_folder(images, writer))
    assert samples_in(images / "shards") == {"sub-a-b-jpg": {"jpg": RED, "txt": b"a red card"}}
    assert (report.written, report.faults) == (1, Counter(image_corrupt=1))
    tars(sounds, lambda writer: ingest_audio_folder(sounds, writer))
    (sample,) = samples_in(sounds / "shards").values()
    assert sample == {"wav": sound, "json": b'{"text": "tiefes Brummen"}'}


def test_csv_rows_become_pairs_and_bad_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerows([["id", "caption", "file"], ["1", 'two\nlines, "quoted"', "r.jpg"]])
        rows.writerows([["2", " ", "r.jpg"], ["3"], ["4", "text", "gone.jpg"]])
        rows.writerows([["5", "x" * 200_000, "r.jpg"], ["6", "über", "b.png"]])
    path.write_bytes(path.read_bytes() + b"7,\xff,r.jpg\r\n")
    find = MediaStore(write_files(tmp_path / "media", {"r.jpg": RED, "b.png": BLUE}))
    columns = {"medium_column": "file", "text_column": "caption"}
    report = tars(tmp_path, lambda writer: ingest_csv(path, writer, find=find, **columns))
    assert samples_in(tmp_path / "shards") == {
        "t-1": {"jpg": RED, "txt": b'two\nlines, "quoted"'},
        "t-6": {"png": BLUE, "txt": "über".encode()},
    }
    counts = Counter(text_empty=1, json_invalid=2, media_missing=1, text_encoding=1)
    assert (report.written, report.faults) == (2, counts)
    with pytest.raises(UserError, match="no column 'image'"):
        tars(tmp_path / "x", lambda writer: ingest_csv(path, writer, find=find))


def test_json_lines_and_coco_become_pairs(tmp_path: Path) -> None:
    store = {"r.jpg": RED, "g.webp": GREEN}
    lines = json_lines({"image": "r.jpg", "text": "a"}, {"image": "r.jpg"}, {"text": "b"}, [1])
    coco = {
        "images": [{"id": 42, "file_name": "g.webp"}, {"id": 7, "file_name": "r.jpg"}],
        "annotations": [
            {"image_id": 7, "id": 1, "caption": "red\n"},
            {"image_id": 42, "id": 2, "caption": "grün"},
            {"image_id": 7, "id": 3, "caption": "rouge"},
            {"image_id": 8, "id": 4, "caption": "nothing"},
            {"image_id": 7},
        ],
    }
    write_files(tmp_path, {"p.jsonl": lines, "coco.json": json.dumps(coco).encode()})
    with ShardWriter(tmp_path / "shards") as writer:
        first = ingest_json_lines(tmp_path / "p.jsonl", writer, find=store.get)
        second = ingest_coco(tmp_path / "coco.json", writer, find=store.get)
    assert samples_in(tmp_path / "shards") == {
        "p-1": {"jpg": RED, "txt": b"a"},
        "7_1": {"jpg": RED, "txt": b"red"},
        "42_2": {"webp": GREEN, "txt": "grün".encode()},
        "7_3": {"jpg": RED, "txt": b"rouge"},
    }
    both = first + second
    assert both.written == 4
    assert both.faults == Counter(text_missing=1, media_missing=2, json_invalid=2)
    for content, message in ((b"[]", "no JSON object"), (b"{}", "no lists"), (lines, "not valid")):
        (tmp_path / "coco.json").write_bytes(content)
        with ShardWriter(tmp_path / "x") as writer, pytest.raises(UserError, match=message):
            ingest_coco(tmp_path / "coco.json", writer, find=store.get)


def test_interleaved_documents_may_hold_sounds_and_a_caption(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.full(900, 0.3), 16_000)
    captioned = {"texts": [None, "Output: red"], "images": ["r.jpg", None], "caption": "red"}
    mixed = {"texts": [None, "x", None], "images": ["r.jpg", None, None]}
    records = [
        captioned,
        mixed | {"audios": [None, None, "a.flac"]},
        mixed,
        mixed | {"audios": [None, None, "a.flac"], "caption": "of which?"},
        captioned | {"caption": 3},
        {"texts": ["only text"], "images": [None]},
    ]
    write_files(tmp_path, {"d.jsonl": json_lines(*records), "r.jpg": RED})
    find = MediaStore(tmp_path)
    path = tmp_path / "d.jsonl"
    report = tars(tmp_path, lambda writer: ingest_interleaved(path, writer, find=find))
    samples = samples_in(tmp_path / "shards")
    assert list(samples) == ["d-1", "d-2"]
    assert json.loads(samples["d-1"]["json"]) == captioned | {"images": ["0.jpg", None]}
    assert parts_of(samples["d-2"]) == [RED, "x", (tmp_path / "a.flac").read_bytes()]
    assert report.faults == Counter(json_invalid=3, media_missing=1)


def test_media_are_found_by_path_by_name_or_by_address(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "m", {"a/x.jpg": RED, "b/x.jpg": BLUE, "b/y.webp": GREEN})
    with tarfile.open(folder / "00000.tar", "w") as archive:
        members = {"007.jpg": RED, "007.json": b'{"url": "http://x/a?b=1"}', "007.txt": b"text"}
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    table = {"url": ["http://x/g", "http://x/gone"], "file": ["b/y.webp", "b/z.webp"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "map.parquet")
    entries = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    lines = "url,file\n" + "".join(f"{entry['url']},{entry['file']}\n" for entry in entries)
    write_files(tmp_path, {"map.jsonl": json_lines(*entries), "map.csv": lines.encode()})
    maps = [read_addresses(tmp_path / f"map.{kind}") for kind in ("parquet", "jsonl", "csv")]
    assert maps == [dict(zip(*table.values(), strict=True))] * 3
    find = MediaStore(folder, addresses=maps[0])
    assert [find("a/x.jpg"), find("./b/x.jpg"), find("http://x/g")] == [RED, BLUE, GREEN]
    assert [find("y.webp"), find("m/b/y.webp"), find("007.jpg")] == [GREEN, GREEN, RED]
    assert find("http://x/a?b=1") == RED
    ambiguous_or_outside = [
        "x.jpg",
        "c/y.webp",
        "http://y/y.webp",
        "http://x/gone",
        "../map.csv",
        "z",
    ]
    assert [find(name) for name in ambiguous_or_outside] == [None] * 6


def test_a_lookup_by_name_never_leaves_the_folder(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "m", {"a.jpg": RED})
    write_files(tmp_path, {"secret.jpg": BLUE})
    find = MediaStore(folder)
    assert [find("../secret.jpg"), find(str(tmp_path / "secret.jpg"))] == [None, None]


def test_a_name_that_two_tars_have_and_a_tar_cut_short_give_no_wrong_image(tmp_path: Path) -> None:
    for number, image in enumerate((RED, BLUE, GREEN)):
        with ShardWriter(tmp_path / f"m/{number}", resume=True) as writer:
            writer.write("shared", {"png": image})
            writer.write(f"own{number}", {"png": image})
    last = tmp_path / "m/2/00000.tar"
    last.write_bytes(last.read_bytes()[: -1024 - 512 + 3])  # inside the last member's content
    find = MediaStore(tmp_path / "m")
    assert [find("shared.png"), find("own0.png"), find("own1.png")] == [None, RED, BLUE]
    with pytest.raises(BadSample, match="ends inside"):
        find("own2.png")
    (tmp_path / "m/garbage.tar").write_bytes(b"no tar" * 300)
    with pytest.raises(UserError, match="is no tar"):
        MediaStore(tmp_path / "m")
