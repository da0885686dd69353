"""S2: nothing in a folder of a model, of a run or of data is executed, and nothing is fetched that
its files name. Each folder is read the way the scripts read it."""

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2.exceptions import SecurityError
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.checkpoint.folder import seal_file
from common.checkpoint.pretrained import (
    read_config,
    read_model,
    read_processor,
    read_tensors,
    read_tokenizer,
)
from common.checkpoint.store import CheckpointStore, load_facts
from common.data.shards.index import load_index
from common.data.shards.tokens import load_extents
from common.encoders.weights import read_weights
from common.errors import UserError
from tests.flamingo import tiny
from tests.matrix import Counted
from tests.security.canary import Canary, watched_network
from tests.security.outcomes import one_line

Change = Callable[[Path, Canary], None]
ELSEWHERE = "somebody/else"


def edited(name: str, **fields: Any) -> Change:
    """Fields of a JSON file of the folder have other values."""

    def change(folder: Path, canary: Canary) -> None:
        values = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(values | fields))

    return change


def text_config(**fields: Any) -> Change:
    def change(folder: Path, canary: Canary) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= fields
        (folder / "config.json").write_text(json.dumps(config))

    return change


def pickled_weights(folder: Path, canary: Canary) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(canary.pickled)


def archived_weights(folder: Path, canary: Canary) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": canary}, folder / "pytorch_model.bin")


def chat_template(folder: Path, canary: Canary) -> None:
    escape = (
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}"
        "{{ c.__init__.__globals__['__builtins__']['open']('" + str(canary.file) + "', 'w') }}"
        "{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(escape)


def custom_generation(folder: Path, canary: Canary) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(canary.code)
    edited("generation_config.json", custom_generate=str(folder), trust_remote_code=True)(
        folder, canary
    )


def vision_name(name: str) -> Change:
    def change(folder: Path, canary: Canary) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["name"] = name
        (folder / "config.json").write_text(json.dumps(config))

    return change


MODEL_FOLDERS: dict[str, Change] = {
    "pickle instead of tensors": pickled_weights,
    "pickle in torch's archive": archived_weights,
    "auto_map of our type": edited(
        "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M"}
    ),
    "auto_map of an unknown type": edited(
        "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"}
    ),
    "auto_map elsewhere": edited(
        "config.json", model_type="evil", auto_map={"AutoConfig": f"{ELSEWHERE}--evil.C"}
    ),
    "trust_remote_code": edited(
        "config.json", trust_remote_code=True, model_type="e", auto_map={"AutoConfig": "evil.C"}
    ),
    "attention from elsewhere": edited("config.json", _attn_implementation_internal=ELSEWHERE),
    "attention by its public name": edited("config.json", attn_implementation=ELSEWHERE),
    "attention of the text model": text_config(_attn_implementation=ELSEWHERE),
    "experts of the text model": text_config(_experts_implementation_internal=ELSEWHERE),
    "auto_map of the text model": text_config(
        model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    ),
    "quantization": edited("config.json", quantization_config={"quant_method": ELSEWHERE}),
    "custom pipelines": edited(
        "config.json", custom_pipelines={"image-text-to-text": {"impl": "evil.P"}}
    ),
    "weights of an adapter": edited(
        "adapter_config.json", peft_type="LORA", base_model_name_or_path=ELSEWHERE
    ),
    "processor's auto_map": edited("processor_config.json", auto_map={"AutoProcessor": "evil.P"}),
    "processor's class": edited(
        "processor_config.json", processor_class="EvilP", auto_map={"AutoProcessor": "evil.P"}
    ),
    "image processor's auto_map": edited(
        "processor_config.json",
        image_processor={
            "image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.P"}
        },
    ),
    "tokenizer's auto_map": edited(
        "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}
    ),
    "tokenizer's class": edited(
        "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": [None, f"{ELSEWHERE}--evil.T"]},
    ),
    "chat template": chat_template,
    "generate": custom_generation,
    "vision tower from elsewhere": vision_name(f"hf-hub:{ELSEWHERE}"),
    "vision tower from a folder": vision_name("local-dir:evil"),
}  # fmt: skip
# What asks for something else is overlooked: our classes and files are taken.
HARMLESS = {
    "auto_map of our type",
    "quantization",
    "custom pipelines",
    "processor's auto_map",
    "tokenizer's auto_map",
    "generate",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model as its owner has published it."""
    folder = tmp_path_factory.mktemp("published")
    tiny.model(vocab_size=300).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


def use(folder: Path) -> None:
    """All that the scripts do with a folder of a model."""
    model = read_model(AutoModelForImageTextToText, folder, config=read_config(folder))
    read_tokenizer(folder)
    processor = read_processor(AutoProcessor, folder)
    message = {"role": "user", "content": "a"}
    # Given by hand: transformers does not see the processor's own through the hook of the types.
    template = (folder / "chat_template.jinja").read_text()
    inputs = processor.apply_chat_template(
        [message], chat_template=template, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model.generate(**inputs, max_new_tokens=1)


def told(action: Callable[[], object]) -> str:
    """`used`, or what refused: every error is one line of ours, or jinja's own sandbox."""
    try:
        action()
    except UserError as error:
        one_line(error)
        return "refused"
    except SecurityError:
        return "refused"
    return "used"


def test_no_folder_of_a_model_runs_code_or_reaches_out(
    saved: Path, tmp_path: Path, counted: Counted
) -> None:
    canary, outcomes = Canary(tmp_path), {}
    for number, (name, change) in enumerate(MODEL_FOLDERS.items()):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        (folder / "evil.py").write_text(canary.code)
        change(folder, canary)
        with watched_network() as asked:
            outcomes[name] = told(lambda folder=folder: use(folder))
        assert not canary.has_sung(), name
        assert not asked, (name, asked)
    used = {name for name, outcome in outcomes.items() if outcome == "used"}
    assert used == HARMLESS
    counted("S2", "code in a folder of a model", len(MODEL_FOLDERS))


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights of a checkpoint to convert": ("a.pt", read_tensors),
    "weights by a false name": ("a.safetensors", read_tensors),
    "weights of an encoder": ("a.pth", lambda file: read_weights(file, kind="vision")),
    "encoder by a false name": (
        "a.safetensors",
        lambda file: read_weights(file, kind="vision"),
    ),
}


def test_no_file_of_weights_runs_code(tmp_path: Path, counted: Counted) -> None:
    canary = Canary(tmp_path)
    for name, (file, read) in FILES.items():
        (tmp_path / file).write_bytes(canary.pickled)
        assert told(lambda read=read, file=file: read(tmp_path / file)) == "refused", name
        torch.save({"weight": canary}, tmp_path / file)
        assert told(lambda read=read, file=file: read(tmp_path / file)) == "refused", name
        assert not canary.has_sung(), name
    counted("S2", "pickles in files of weights", 2 * len(FILES))


def test_no_array_runs_code(tmp_path: Path, counted: Counted) -> None:
    canary = Canary(tmp_path)
    objects = np.array([canary], dtype=object)
    np.savez(tmp_path / "a.index.npz", header=objects, samples=objects, members=objects)
    assert load_index(tmp_path / "a.index.npz") is None
    np.save(tmp_path / "a.npy", objects)
    assert load_extents(tmp_path / "a.npy", size=1) is None
    assert not canary.has_sung()
    counted("S2", "pickles in arrays of a corpus", 2)


RUN_FILES = (".metadata", "rng_state.pth", "optimizer.pt", "random_states_0.pkl", "scheduler.bin")


def test_no_file_of_a_run_runs_code(tmp_path: Path, counted: Counted) -> None:
    """A checkpoint is safetensors and JSON; what torch or accelerate would unpickle is never
    opened, not even when its manifest vouches for it."""
    canary, checkpoints = Canary(tmp_path), tmp_path / "run" / "checkpoints"
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    store = CheckpointStore(checkpoints, keep=2)
    store.save([model], optimizer, step=4, facts={"step": 4})
    store.wait()
    step = checkpoints / "step_00000004"
    manifest = json.loads((step / "manifest.json").read_text())
    for name in RUN_FILES:
        (step / name).write_bytes(canary.pickled)
        sealed = seal_file(step / name)
        manifest[name] = {"bytes": sealed.bytes, "sha256": sealed.sha256}
        (step / "manifest.json").write_text(json.dumps(manifest))
        found = store.newest_good()
        assert found == step, name
        assert load_facts(found)["step"] == 4
        store.load(found, [model], optimizer)
        assert not canary.has_sung(), name
    # Pickles under the names of its own files, vouched for as well.
    for name in ("tensors_00000.safetensors", "index.json", "state.json"):
        kept = (step / name).read_bytes()
        (step / name).write_bytes(canary.pickled)
        sealed = seal_file(step / name)
        changed = manifest | {name: {"bytes": sealed.bytes, "sha256": sealed.sha256}}
        (step / "manifest.json").write_text(json.dumps(changed))
        assert told(lambda: store.load(store.newest_good(), [model], optimizer)) == "refused", name
        assert not canary.has_sung(), name
        (step / name).write_bytes(kept)
    counted("S2", "pickles in the folder of a run", len(RUN_FILES) + 3)


def test_the_canary_sings_and_the_network_is_watched(tmp_path: Path) -> None:
    canary = Canary(tmp_path)
    pickle.loads(canary.pickled)
    assert canary.has_sung()
    with watched_network() as asked, pytest.raises(OSError, match="no network"):
        socket.create_connection(("example.org", 80))
    assert asked
