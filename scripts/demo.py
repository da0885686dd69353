r"""A page in the browser to talk with a Flamingo or a FLARE, show it examples and search with it.

    python scripts/demo.py --model runs/quickstart/flamingo/model
    python scripts/demo.py --model runs/quickstart/flamingo/model \
        --model runs/quickstart-flare/flare/model

It needs Gradio (pip install 'flare-flamingo[demo]'), serves this machine only and fetches nothing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from transformers.utils import logging

from common.checkpoint.pretrained import model_type
from common.demo.limits import Limits
from common.errors import UserError
from common.training.options import parse_options

# By the type of the model; they and the page are imported where Gradio is known to be there.
LOADERS = {"flamingo": "flamingo.demo", "flare": "flare.demo"}
MAX_PORT = 65_535
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Options:
    """A page in the browser to talk with a Flamingo or a FLARE, show it examples and search."""

    # Folder of a model; may be given several times, each model gets its own tabs.
    model: tyro.conf.UseAppendAction[tuple[Path, ...]]
    # Of the address 127.0.0.1; 0 takes any that is free.
    port: int = 7860
    # cpu, cuda or cuda:1; not given: an accelerator if there is one.
    device: str | None = None
    # Of weights and activations.
    dtype: Literal["fp32", "bf16"] = "fp32"
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until interrupted; exit status 2 for a user's mistake."""
    try:
        options = parse_options(Options, arguments, description=None)
        if options is not None:
            _serve(options)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _serve(options: Options) -> None:
    if not options.model:
        raise UserError("no model to show; give --model FOLDER")
    if find_spec("gradio") is None:
        raise UserError("the page needs Gradio; pip install 'flare-flamingo[demo]'")
    if not 0 <= options.port <= MAX_PORT:
        raise UserError(f"--port {options.port} is none; give a number from 0 to {MAX_PORT}")
    logging.disable_progress_bar()
    loaders = [_loader(folder) for folder in options.model]
    device = _device(options.device)
    models = [
        import_module(loader).demonstrated(folder, device=device, dtype=DTYPES[options.dtype])
        for loader, folder in zip(loaders, options.model, strict=True)
    ]
    import_module("common.demo.server").serve(
        models, port=options.port, limits=options.limits, ready=_tell
    )


def _loader(folder: Path) -> str:
    kind = model_type(folder)
    if kind not in LOADERS:
        raise UserError(f"{folder} holds a {kind}; give the folder of a Flamingo or a FLARE")
    return LOADERS[kind]


def _device(name: str | None) -> str:
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"--device {chosen} is not there; leave it out, or give cpu") from error
    return chosen


def _tell(address: str) -> None:
    print(f"open {address} in a browser; Ctrl-C ends it", flush=True)


if __name__ == "__main__":
    sys.exit(main())
