"""A frozen Hugging Face language model that hands media to gated blocks, its code untouched.

Forward hooks on its layers take the media of the call and let the gated block of that layer act on
the hidden states first. Media travel as a keyword argument, which most families hand on to every
layer. Families that do not (MPT, GPT-J, Falcon) are reached through a variable of the thread, set
for the duration of one call only: no module ever holds state, and calls may nest or interleave.
The loss of a call is found the same way inside the output layer, a chunk of logits at a time.
"""

import inspect
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common.attention.masks import causal, may_look, same_document
from common.errors import UserError
from common.objectives.language import IGNORED, linear_next_token_loss, next_token_loss
from flamingo.gated_cross_attention import GatedCrossAttentionBlock
from flamingo.media import Media

MEDIA_ARGUMENT = "flamingo_media"


@dataclass(kw_only=True)
class _Prediction:
    """The labels of a call, and the loss that was found inside the output layer."""

    labels: Int[Tensor, "b s"]
    new_rows: Float[Tensor, "u d"]
    hidden: Float[Tensor, "b s d"] | None = None
    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "b 0 v"] | None = None  # what the output layer gave instead


class _Call(threading.local):
    media: Media | None = None
    prediction: _Prediction | None = None


_this_call = _Call()  # unlike a context variable, torch.compile can follow it

# Models that were seen to go on with the logits of their output layer: Cohere and Granite scale
# them, Gemma-2 caps them.
_going_on: "WeakSet[PreTrainedModel]" = WeakSet()


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal LM of a configuration, with random weights."""
    return AutoModelForCausalLM.from_config(config)


def decoder_layers(language_model: PreTrainedModel) -> nn.ModuleList:
    """The list of a causal LM's layers, whatever its family calls it."""
    expected = language_model.config.num_hidden_layers
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == expected:
            return module
    family = type(language_model).__name__
    raise ValueError(f"{family} has no list of {expected} layers; it cannot be conditioned")


def condition(
    language_model: PreTrainedModel, blocks: Mapping[int, GatedCrossAttentionBlock]
) -> None:
    """Lets `blocks[i]` act on the hidden states that enter layer i, when a call brings media."""
    for index, layer in enumerate(decoder_layers(language_model)):
        # A partial, unlike a closure, is followed by copy.deepcopy: a copy meets its own blocks.
        layer.register_forward_pre_hook(partial(_add_media, blocks.get(index)), with_kwargs=True)


def extend_vocabulary(language_model: PreTrainedModel, owner: nn.Module) -> None:
    """Appends the logits of the owner's `new_outputs` to those of the frozen output layer."""
    head = language_model.get_output_embeddings()
    head.register_forward_pre_hook(_keep_hidden)
    # By name: PEFT puts another module in the place of one that it trains.
    head.register_forward_hook(partial(_append_logits, owner))


def run(language_model: PreTrainedModel, media: Media, **inputs: Any) -> Any:
    """One call of the language model with media; raises when its layers did not receive them.

    Raises:
        UserError: its output layer lost the new tokens.
    """
    outer, _this_call.media = _this_call.media, media
    try:
        outputs = language_model(**inputs, **{MEDIA_ARGUMENT: media})
    finally:
        _this_call.media = outer
    if not media.visited:
        raise RuntimeError(f"{type(language_model).__name__} never met its gated blocks")
    if outputs.logits.shape[-1] == language_model.config.vocab_size:
        raise UserError(
            "the language model's output layer was replaced and lost the new tokens; name it "
            'where the replacing is configured, as in modules_to_not_convert=["lm_head"]'
        )
    return outputs


def run_for_loss(
    language_model: PreTrainedModel,
    media: Media,
    labels: Int[Tensor, "b s"],
    *,
    new_outputs: nn.Module,
    **inputs: Any,
) -> Any:
    """A call without a cache whose `loss` is the summed next-token loss.

    There are no logits, but for models whose output layer is more than a matrix or whose logits are
    more than its outputs.

    Raises:
        UserError: as in `run`.
    """
    head = language_model.get_output_embeddings()
    if _is_matrix(head) and _is_matrix(new_outputs) and language_model not in _going_on:
        prediction = _Prediction(labels=labels, new_rows=new_outputs.get_parameter("weight"))
        outer, _this_call.prediction = _this_call.prediction, prediction
        try:
            outputs = run(language_model, media, **inputs)
        finally:
            _this_call.prediction = outer
        logits, loss = prediction.logits, prediction.loss
        if logits is not None and loss is not None and outputs.logits is logits:
            # 0, but gradients now cross the output layer, where sharded weights are gathered anew.
            outputs.loss = loss + logits.sum()
            return outputs
        _going_on.add(language_model)
    outputs = run(language_model, media, **inputs)
    outputs.loss, _ = next_token_loss(outputs.logits, labels)
    return outputs


def packing_arguments(
    language_model: PreTrainedModel, documents: Int[Tensor, "b s"]
) -> dict[str, Tensor]:
    """What keeps packed documents apart in the language model's own attention.

    Positions start again at 0 in every document, where the family has position ids (MPT's are a
    bias by distance). A mask says the rest, since not every family (OPT) reads the documents from
    the positions. Only where a mask cannot do - a sliding window, a fused backend - positions do.
    Rows of one document each need nothing, and the kernels for plain causal text are faster.
    """
    batch, length = documents.shape
    arguments: dict[str, Tensor] = {}
    if may_look(documents) and bool((documents == documents[:, :1]).all()):
        return arguments
    if takes_positions(language_model):
        arguments["position_ids"] = positions_in_documents(documents)
    fused = language_model.config._attn_implementation not in ("eager", "sdpa")
    if fused or has_window_within(language_model, length):
        return arguments
    mask = causal() & same_document(documents, documents)
    allowed = mask.dense(batch=batch, num_queries=length, num_keys=length, device=documents.device)
    bias = torch.zeros_like(allowed, dtype=language_model.dtype)
    hidden = torch.finfo(language_model.dtype).min
    return arguments | {"attention_mask": bias.masked_fill(~allowed, hidden)}


def takes_positions(language_model: PreTrainedModel) -> bool:
    """Whether distances follow from position ids; otherwise (MPT) from places in the row."""
    return "position_ids" in inspect.signature(language_model.forward).parameters


def has_window_within(language_model: PreTrainedModel, length: int) -> bool:
    """Whether a text of this length outgrows a sliding window, which counts places in the row."""
    config = language_model.config
    window = config.sliding_window if hasattr(config, "sliding_window") else None
    return (window or length) < length


def positions_in_documents(documents: Int[Tensor, "b s"]) -> Int[Tensor, "b s"]:
    """Place of each token in its document. `0 0 0 1 1` -> `0 1 2 0 1`"""
    place = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return place - torch.where(starts, place, 0).cummax(-1).values


def embed(
    language_model: PreTrainedModel, new_inputs: nn.Module, ids: Int[Tensor, "b s"]
) -> Float[Tensor, "b s d"]:
    """Frozen rows for the language model's own tokens, trainable rows for the new ones."""
    first_new = language_model.config.vocab_size
    is_new = ids >= first_new
    own = language_model.get_input_embeddings()(ids.masked_fill(is_new, 0))
    new = new_inputs((ids - first_new).clamp(min=0))
    return torch.where(is_new[..., None], new.to(own.dtype), own)


def _add_media(
    block: GatedCrossAttentionBlock | None,
    layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    media = kwargs.pop(MEDIA_ARGUMENT, None) or _this_call.media
    if media is None or block is None:
        return args, kwargs
    media.visited.append(block.layer)
    if args:
        return (block(args[0], media), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": block(kwargs["hidden_states"], media)}


def _is_matrix(layer: nn.Module) -> bool:
    """Whether a layer multiplies by its weight and at most adds a constant."""
    # A quantiser's or adapter's layer computes otherwise; an offloaded one lacks its weight.
    if type(layer).forward is not nn.Linear.forward or "forward" in vars(layer):
        return False
    bias = cast(nn.Linear, layer).bias
    return bias is None or not bias.requires_grad


def _keep_hidden(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where a loss is wanted, the layer itself is left nothing to do."""
    prediction = _this_call.prediction
    if prediction is None:
        return args
    prediction.hidden = args[0]
    return (args[0][:, :0], *args[1:])


def _append_logits(
    owner: nn.Module, head: nn.Module, args: tuple[Any, ...], logits: Float[Tensor, "b s v"]
) -> Float[Tensor, "b s u"]:
    new_outputs = cast(nn.Linear, owner.new_outputs)
    new = new_outputs(args[0].to(new_outputs.weight.dtype))
    logits = torch.cat([logits, new.to(logits.dtype)], dim=-1)
    prediction = _this_call.prediction
    if prediction is not None:
        # Here and now, because a sharded weight is whole only while its layer runs.
        prediction.loss, prediction.logits = _loss(prediction, cast(nn.Linear, head)), logits
    return logits


def _loss(prediction: _Prediction, head: nn.Linear) -> Float[Tensor, ""]:
    assert prediction.hidden is not None
    hidden = prediction.hidden[:, :-1].flatten(0, 1)
    targets = prediction.labels[:, 1:].flatten()
    if may_look(targets):
        chosen = (targets != IGNORED).nonzero()[:, 0]
        hidden, targets = hidden[chosen], targets[chosen]
    return linear_next_token_loss(
        hidden, head.weight, targets, z_loss=0.0, bias=head.bias, new_rows=prediction.new_rows
    )
