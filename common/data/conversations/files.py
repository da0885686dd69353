"""The user's conversations by path, as a corpus to train on."""

from hashlib import blake2b
from pathlib import Path

from common.data.conversations.corpus import ConversationCorpus, Measure
from common.data.conversations.sources import open_instructions
from common.data.corpus import Corpus, Split, part_of


def instruction_corpus(
    kind: str, path: Path, *, media: Path | None, split: Split, measure: Measure
) -> Corpus:
    """Conversations of a file of records; media lie beside it unless they have a folder.

    Raises:
        UserError: the file is not as its kind has it, or holds too little to train on.
    """
    items = open_instructions(path, kind=kind, media=media or path.parent)
    digest = blake2b(repr(items.records).encode(), digest_size=16).hexdigest()
    whole = ConversationCorpus(str(path), items, digest=digest, measure=measure)
    return part_of(whole, split, name=str(path))
