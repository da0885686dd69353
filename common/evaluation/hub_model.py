"""Any local vision-language model of transformers' as a baseline: examples become turns of a chat
in the model's own template, and it answers the last one."""

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from common.checkpoint.pretrained import read_config, read_model, read_processor
from common.data.document import Recording
from common.data.prompt_safety import CAN_SANITIZE, encode_plain, refuse_control_tokens
from common.errors import UserError
from common.evaluation.models import LENGTH_PENALTY, Prompt, Turn
from common.generation.beams import beam_options

ANSWERS_AT_ONCE = 8  # in one call of the model, each with its own copy of the prompt
PROBE = "answer"  # a word between the template's own


class HubModel:
    """`common.evaluation.models`: a Writer."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        self.model, self.processor = model.eval().requires_grad_(False), processor
        # What is written goes on from the end of every prompt.
        self.processor.tokenizer.padding_side = "left"
        if self.processor.tokenizer.pad_token is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token
        self._ends = _ends_of_turns(model, processor)

    @torch.no_grad()
    def write(self, prompts: Sequence[Prompt], *, max_new_tokens: int, num_beams: int) -> list[str]:
        """What the model answers, up to the end of its turn.

        Raises:
            UserError: a prompt has a recording.
        """
        inputs = self._inputs(prompts)
        written = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            **beam_options(num_beams, LENGTH_PENALTY),
            do_sample=False,
            eos_token_id=self._ends,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        new = written[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.no_grad()
    def log_likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Of the answers' own tokens at the beginning of the model's turn; its end is not counted.

        Raises:
            UserError: a prompt has a recording, no answer, or an empty one.
        """
        found = []
        for prompt, own in zip(prompts, answers, strict=True):
            ids = [encode_plain(answer, self.processor.tokenizer) for answer in own]
            if not ids or not all(ids):
                raise UserError(f"prompt {prompt[-1].text!r} has no answer, or an empty one")
            # Alone, so that no model's positions depend on padding.
            inputs = self._inputs([prompt])
            starts = range(0, len(ids), ANSWERS_AT_ONCE)
            parts = [ids[start : start + ANSWERS_AT_ONCE] for start in starts]
            found.append([value for part in parts for value in self._weigh(inputs, part)])
        return found

    def _inputs(self, prompts: Sequence[Prompt]) -> BatchFeature:
        chats = [_chat(prompt) for prompt in prompts]
        if CAN_SANITIZE:
            safe = {"sanitize_control_tokens": True}
        else:
            refuse_control_tokens(chats, self.processor.tokenizer.all_special_tokens)
            safe = {}
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
            **safe,
        )
        inputs = inputs.to(self.model.device)
        return BatchFeature(
            {
                key: value.to(self.model.dtype) if value.is_floating_point() else value
                for key, value in inputs.items()
            }
        )

    def _weigh(self, inputs: BatchFeature, answers: Sequence[Sequence[int]]) -> list[float]:
        """Summed log-probabilities of ids behind one prompt."""
        width = max(map(len, answers))
        device = self.model.device
        ids = torch.tensor([[*own, *[0] * (width - len(own))] for own in answers], device=device)
        lengths = torch.tensor([[len(own)] for own in answers], device=device)
        is_real = torch.arange(width, device=device) < lengths
        # The prompt once for each answer. Tensors that have a row for each image, not for each
        # prompt, come out right too, since all prompts are equal.
        repeated = {
            key: value.repeat(len(answers), *[1] * (value.ndim - 1))
            for key, value in inputs.items()
        }
        shape = repeated["input_ids"].shape
        # What has a value for each token has one for those of the answer: it is seen, it is text.
        endings = {"input_ids": ids, "attention_mask": is_real.long()}
        longer = {
            key: torch.cat([value, endings.get(key, torch.zeros_like(ids))], dim=1)
            if value.shape == shape
            else value
            for key, value in repeated.items()
        }
        can_keep = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        keep = {"logits_to_keep": width + 1} if can_keep else {}
        logits = self.model(**longer, **keep, use_cache=False).logits
        chances = logits[:, -width - 1 : -1].float().log_softmax(-1)
        own = chances.gather(2, ids[..., None])[..., 0]
        sums: list[float] = own.masked_fill(~is_real, 0.0).double().sum(1).tolist()
        return sums


def load(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> HubModel:
    """A vision-language model that answers chats.

    Raises:
        UserError: there is none, a part of it is missing, or it has no template for chats.
    """
    config = read_config(folder)
    if config.is_encoder_decoder:
        raise UserError(f"{folder} holds an encoder-decoder; evaluate a model that only decodes")
    processor = read_processor(AutoProcessor, folder)
    if getattr(processor, "chat_template", None) is None:
        raise UserError(f"the processor in {folder} has no template for chats; take a chat model")
    model = read_model(AutoModelForImageTextToText, folder, config=config, dtype=dtype)
    return HubModel(model.to(device), processor)


def _chat(prompt: Prompt) -> list[dict[str, object]]:
    return [message for turn in prompt for message in _messages(turn)]


def _messages(turn: Turn) -> list[dict[str, object]]:
    if any(isinstance(medium, Recording) for medium in turn.media):
        raise UserError("a model of the hub is asked about images only; give it no sounds")
    content: list[dict[str, object]] = [{"type": "image", "image": image} for image in turn.media]
    content.append({"type": "text", "text": turn.text})
    asked: dict[str, object] = {"role": "user", "content": content}
    if turn.answer is None:
        return [asked]
    said: dict[str, object] = {"type": "text", "text": turn.answer}
    return [asked, {"role": "assistant", "content": [said]}]


def _ends_of_turns(model: PreTrainedModel, processor: ProcessorMixin) -> list[int]:
    """What the folder says, and the control token that the template puts behind an answer."""
    tokenizer = processor.tokenizer
    told = model.generation_config.eos_token_id
    ends = {*(told if isinstance(told, list) else [told]), tokenizer.eos_token_id} - {None}
    chat = _chat((Turn(media=(), text="question", answer=PROBE),))
    behind = processor.apply_chat_template(chat, tokenize=False).rpartition(PROBE)[2].strip()
    first = tokenizer(behind, add_special_tokens=False)["input_ids"][:1]
    return sorted(ends | (set(first) & set(tokenizer.all_special_ids)))
