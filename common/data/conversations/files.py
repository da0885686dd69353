"""The user's conversations and pairs by path, as a corpus to train on."""

from hashlib import blake2b
from pathlib import Path

from common.data.conversations.corpus import ConversationCorpus, Measure
from common.data.conversations.pair_files import open_pairs
from common.data.conversations.sources import open_instructions
from common.data.corpus import Corpus, Split, part_of


def file_corpus(
    kind: str, path: Path, *, media: Path | None, split: Split, measure: Measure
) -> Corpus:
    """Conversations of a file of records, or `pairs`; media lie in their folder or beside it.

    Raises:
        UserError: the file is not as its kind has it, or holds too little to train on.
    """
    folder = media or path.parent
    items = (
        open_pairs(path, media=folder)
        if kind == "pairs"
        else open_instructions(path, kind=kind, media=folder)
    )
    digest = blake2b(repr(items.records).encode(), digest_size=16).hexdigest()
    whole = ConversationCorpus(str(path), items, digest=digest, measure=measure)
    return part_of(whole, split, name=str(path))
