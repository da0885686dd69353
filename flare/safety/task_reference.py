"""How likely the answers of all pairs were before training: the reference of their loss.

The model as it came scores them once, before anything of the run is built, and the numbers are kept
in the run's folder. Every rank scores its share on its own device with the whole model, in the
run's precision (FLARE-13B: 26 GB in bf16 for that time, and as much of the host's while it is
read); there is no second model beside the one that is trained, whatever divides that one.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch

from common.checkpoint.writing import write_whole
from common.data.corpus import Corpus
from common.data.faults import BadSample
from common.data.transfer import on_device
from common.training.processes import Processes
from flare import passes
from flare.data import collate
from flare.encoding import DocumentEncoder, FlareExample
from flare.instruct.task_encoding import encode_dialogue
from flare.model import FlareForConditionalGeneration
from flare.safety.task_answers import answers_in

FILE = "reference.json"
BATCH = 16  # pairs that are scored at once

References = dict[str, list[float]]  # log-probabilities of both answers, by the document's key


def references_of(
    corpora: Sequence[Corpus],
    folder: Path,
    *,
    build: Callable[[], FlareForConditionalGeneration],
    encoder: DocumentEncoder,
    max_tokens: int,
    processes: Processes,
) -> References:
    """Of all pairs, on every rank: those kept in the run's folder for the same pairs, or scored by
    the model that `build` makes, and kept.

    A pair that cannot be read or is too long for a row has none: it is never trained on.

    Raises:
        UserError: the model cannot be read, or the disk refuses.
    """
    digest = f"{max_tokens}/" + "+".join(corpus.digest for corpus in corpora)
    kept = processes.from_main(_kept(folder / FILE, digest) if processes.is_main else None)
    if kept is not None:
        return kept
    pairs = _pairs(corpora, encoder, max_tokens, processes)
    model = build().to(processes.device)
    # As in the run, which computes in half precision by autocast.
    half = torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32)
    with half:
        own = _scored(model, pairs, encoder=encoder)
    found = _united(processes.collect(own))
    if processes.is_main:
        write_whole(folder / FILE, json.dumps({"digest": digest, "log_probs": found}))
    return found


def _kept(path: Path, digest: str) -> References | None:
    if not path.is_file():
        return None
    written = json.loads(path.read_text())
    found: References = written["log_probs"]
    return found if written["digest"] == digest else None


def _pairs(
    corpora: Sequence[Corpus], encoder: DocumentEncoder, max_tokens: int, processes: Processes
) -> Iterator[FlareExample]:
    """Those of this rank that can be trained on."""
    every = ((corpus, index) for corpus in corpora for index in range(sum(corpus.shard_sizes)))
    for corpus, index in islice(every, processes.rank, None, processes.num_ranks):
        try:
            document = encoder.fitted(corpus.read(index))
        except BadSample:  # as in training, where it is counted
            continue
        example, is_cut = encode_dialogue(
            encoder, document, max_tokens=max_tokens, reference=(0.0, 0.0)
        )
        if not is_cut:
            yield example


@torch.no_grad()
def _scored(
    model: FlareForConditionalGeneration,
    pairs: Iterator[FlareExample],
    *,
    encoder: DocumentEncoder,
) -> References:
    model.eval()
    found: References = {}
    while some := [*islice(pairs, BATCH)]:
        batch = collate(some, encoder=encoder)
        answers = answers_in(some, width=batch.input_ids.shape[1])
        batch, answers = on_device((batch, answers), model.device)
        x = passes.start(model, batch).hidden
        x = passes.advance(model, model.decoder.blocks, x, batch)
        log_probs = passes.answers_of(model, model.decoder.norm(x).flatten(0, 1), answers).tolist()
        both = zip(log_probs[::2], log_probs[1::2], strict=True)
        found |= {example.key: [*pair] for example, pair in zip(some, both, strict=True)}
    return found


def _united(parts: Sequence[References]) -> References:
    return {key: pair for part in parts for key, pair in part.items()}
