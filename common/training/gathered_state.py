"""The tensors of a checkpoint as whole tensors: gathered on the main rank, divided again by each.

Replicated models pass through as they are. Every rank reads the whole state of a sharded one.
"""

from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from common.checkpoint.digests import tensors_digest
from common.checkpoint.state import TrainingState, model_tensors, optimizer_tensors
from common.parallel.sharding import Gathered, is_sharded, like, whole_on_main


def gather_weights(model: nn.Module, *, is_main: bool) -> dict[str, Tensor]:
    """`model_tensors` of the whole model; nothing beside the main rank."""
    if not is_sharded(model):
        return model_tensors(model) if is_main else {}
    persistent = model.state_dict(keep_vars=True).keys()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b for name, b in model.named_buffers() if name in persistent}
    return whole_on_main(trained | buffers)


def gather_moments(model: nn.Module, optimizer: Optimizer, *, is_main: bool) -> dict[str, Tensor]:
    """`optimizer_tensors` of the whole model; nothing beside the main rank."""
    if not is_sharded(model):
        return optimizer_tensors(model, optimizer) if is_main else {}
    moments: dict[str, Tensor] = {
        f"{name}/{quantity}": value
        for name, parameter in model.named_parameters()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }
    return whole_on_main(moments)


def frozen_digest(model: nn.Module) -> str:
    """Identifies the parameters that are not saved; all ranks take part, tensor by tensor."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return tensors_digest(Gathered(frozen))


def divide_state(state: TrainingState, model: nn.Module) -> TrainingState:
    """The same state with the tensors of sharded parameters divided as these are."""
    if not is_sharded(model):
        return state
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def divided(name: str, tensor: Tensor) -> Tensor:
        # Counts of steps have no dimension, every parameter has one.
        return like(tensor, own[name]) if name in own and tensor.ndim else tensor

    return replace(
        state,
        weights={name: divided(name, tensor) for name, tensor in state.weights.items()},
        optimizer={
            key: divided(key.rsplit("/", 1)[0], tensor) for key, tensor in state.optimizer.items()
        },
    )
