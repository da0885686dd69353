"""The language model's own stage, for the tiny preset: a causal LM on English and scene texts.

Full sizes start from a language model that somebody else has trained; the tiny one is trained here
in a minute, on CPython's documentation and on the words of the generated documents (their pictures
left out), so that it can continue a list of answers before it has ever seen a picture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.data.corpus import Corpus, MadeCorpus, Split
from common.data.document import Document
from common.data.embedded.prose import paragraphs
from common.data.feed import Feed, Supply, mixed
from common.data.prompt_safety import encode_plain
from common.data.randomness import generator_at
from common.data.shards.corpus import open_shards
from common.data.transfer import on_device
from common.errors import UserError
from common.evaluation.perplexity import perplexity
from common.objectives.language import IGNORED, next_token_loss
from common.parallel.sharding import Sharding
from common.training.task import Computed, ParameterGroup
from flamingo.corpora import Generated, embedded_tokenizer, generated
from flamingo.language_model import build_language_model, decoder_layers
from flamingo.parallelize import parallelize_language_model
from flamingo.presets import PRESETS

WEIGHT_DECAY = 0.1
VALIDATION_ROWS = 64
SAMPLE_PROMPTS = ("The", "Output: red\nOutput: blue\nOutput:", "Question: What colour is shown?")


@dataclass(frozen=True, kw_only=True)
class LanguageTaskConfig:
    """A causal language model of a preset's shape, on generated text."""

    # Preset whose language model is trained.
    model: str
    # Rows of one update.
    batch_size: int
    # Longest row in tokens.
    max_tokens: int
    # Share of English; the rest are the texts of generated documents.
    prose_share: float
    # Shards of the same texts that `prepare_data.py embedded` wrote; None: generated on the way.
    generated: Path | None = None
    # Seed of the data.
    data_seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise UserError(f"no preset {self.model!r}; presets are {', '.join(PRESETS)}")
        if not 0 <= self.prose_share <= 1:
            raise UserError(f"prose_share must lie in 0..1, not {self.prose_share}")


@dataclass(frozen=True, kw_only=True)
class TextExample:
    """One row of text."""

    key: str
    ids: Int[Tensor, " s"]
    supply: Supply = field(default_factory=Supply)


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Rows padded on the right."""

    keys: list[str]
    input_ids: Int[Tensor, "b s"]
    labels: Int[Tensor, "b s"]


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Rows of one text each, with random access."""

    feed: Feed
    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    max_tokens: int
    weight: float = 1.0

    def example(self, position: int) -> TextExample:
        """The row at a position."""
        drawn = self.feed.read(position)
        ids = encode_plain(words_of(drawn.document), self.tokenizer)
        ids = [self.tokenizer.bos_token_id, *ids, self.tokenizer.eos_token_id]
        is_cut = len(ids) > self.max_tokens
        return TextExample(
            key=drawn.document.key,
            ids=torch.tensor(ids[: self.max_tokens]),
            supply=drawn.supply(is_cut=is_cut),
        )

    def collate(self, examples: Sequence[TextExample]) -> TextBatch:
        """Rows padded to the longest."""
        rows = [example.ids for example in examples]
        padding_id = self.tokenizer.pad_token_id
        return TextBatch(
            keys=[example.key for example in examples],
            input_ids=pad_sequence(rows, batch_first=True, padding_value=padding_id),
            labels=pad_sequence(rows, batch_first=True, padding_value=IGNORED),
        )


class LanguageTask:
    """`LanguageTaskConfig` made real; see `common.training.task.Task` for the methods."""

    def __init__(self, config: LanguageTaskConfig) -> None:
        self.config = config

    def build_model(self) -> PreTrainedModel:
        """A language model with random weights."""
        return build_language_model(PRESETS[self.config.model]().text_config)

    def blocks(self, model: PreTrainedModel) -> Iterator[nn.Module]:
        """The layers."""
        yield from decoder_layers(model)

    def parallelize(self, model: PreTrainedModel, sharding: Sharding) -> None:
        """Layer by layer."""
        parallelize_language_model(model, sharding)

    def sources(self) -> Mapping[str, TextSource]:
        """One source: all text."""
        return {"text": self._source("train")}

    def parameter_groups(self, model: PreTrainedModel) -> list[ParameterGroup]:
        """Decay on matrices only."""
        trained = list(model.parameters())
        return [
            ParameterGroup(
                name="matrices",
                parameters=[p for p in trained if p.ndim > 1],
                weight_decay=WEIGHT_DECAY,
            ),
            ParameterGroup(
                name="vectors", parameters=[p for p in trained if p.ndim == 1], weight_decay=0.0
            ),
        ]

    def counts(self, source: str, batch: TextBatch) -> Mapping[str, int]:
        """Number of tokens that are predicted."""
        return {source: int((batch.labels[:, 1:] != IGNORED).sum())}

    def compute(self, model: PreTrainedModel, source: str, batch: TextBatch) -> Computed:
        """Summed next-token loss."""
        logits = model(batch.input_ids, use_cache=False).logits
        loss, _ = next_token_loss(logits, batch.labels)
        return Computed(losses={source: loss})

    def flops(self, model: PreTrainedModel, source: str, batch: TextBatch) -> float:
        """6 N per token."""
        return 6.0 * sum(p.numel() for p in model.parameters()) * self.tokens(batch)

    def tokens(self, batch: TextBatch) -> int:
        """Tokens without padding."""
        return int((batch.labels != IGNORED).sum())

    def monitor(self, model: PreTrainedModel) -> dict[str, float]:
        """Nothing beside the losses."""
        return {}

    @torch.no_grad()
    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        """Perplexity on held-out paragraphs and scene texts."""
        source = self._source("validation")
        batch = source.collate([source.example(i) for i in range(VALIDATION_ROWS)])
        batch = on_device(batch, model.device)
        logits = model(batch.input_ids, use_cache=False).logits
        loss, count = next_token_loss(logits, batch.labels)
        total, targets = float(loss), int(count)
        return {
            "validation/loss": total / targets,
            "validation/perplexity": perplexity(total, targets),
        }

    @torch.no_grad()
    def samples(self, model: PreTrainedModel) -> list[str]:
        """Greedy continuations of fixed prompts."""
        texts = []
        for prompt in SAMPLE_PROMPTS:
            inputs = self.tokenizer(prompt, return_tensors="pt").to(model.device)
            ids = model.generate(
                input_ids=inputs["input_ids"],
                max_new_tokens=16,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            texts.append(self.tokenizer.decode(ids[0]))
        return texts

    def export(self, model: PreTrainedModel, folder: Path) -> None:
        """A folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The byte-level tokenizer of the generated corpora."""
        return embedded_tokenizer(PRESETS[self.config.model]().text_config.vocab_size)

    def _source(self, split: Split) -> TextSource:
        return TextSource(
            feed=mixed([self._corpus(split)], seed=self.config.data_seed, visits=["stored"]),
            tokenizer=self.tokenizer,
            batch_size=self.config.batch_size,
            max_tokens=self.config.max_tokens,
        )

    def _corpus(self, split: Split) -> Corpus:
        config = self.config
        if split == "train" and config.generated is not None:
            return open_shards(config.generated)
        make = text_documents(split, prose_share=config.prose_share, seed=config.data_seed)
        digest = f"text/{split}/{config.data_seed}/{config.prose_share}"
        return MadeCorpus("text", make, digest=digest, tokenizer=self.tokenizer)


def text_documents(split: Split, *, prose_share: float, seed: int) -> Callable[[int], Document]:
    """Index -> English, or the text of a generated document, at random."""
    prose = paragraphs("train" if split == "train" else "held_out")
    kinds: tuple[Generated, ...] = ("episodes", "episodes", "scenes", "scene_pairs")

    def make(index: int) -> Document:
        generator = generator_at(seed=seed, index=index, stream="flamingo/text")
        if generator.random() < prose_share:
            place = int(generator.integers(len(prose)))
            return Document(key=f"prose/{split}/{place}", parts=(prose[place],))
        document = generated(kinds[int(generator.integers(len(kinds)))], split, seed, index)
        return Document(key=f"text of {document.key}", parts=(words_of(document),))

    return make


def words_of(document: Document) -> str:
    """A document without its pictures, a line for each text."""
    return "\n".join(part for part in document.parts if isinstance(part, str))
