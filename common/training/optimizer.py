"""AdamW with decoupled weight decay per parameter group (Loshchilov and Hutter, 2019).

The fused kernel is used on every device: one pass over the parameters, and the only one that can
leave an update out on the device (`found_inf`), without asking the host.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import AdamW

from common.parallel.sharding import by_mesh
from common.training.run import OptimizerConfig
from common.training.task import ParameterGroup


def build_optimizer(
    model: nn.Module, groups: Sequence[ParameterGroup], config: OptimizerConfig
) -> AdamW:
    """One AdamW over the groups; the learning rate is set by the loop before every update."""
    check_groups(model, groups)
    return AdamW(
        [
            {"name": group.name, "params": alike, "weight_decay": group.weight_decay}
            for group in groups
            for alike in by_mesh(group.parameters)
        ],
        lr=config.peak_learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def check_groups(model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Every trainable parameter in exactly one group, frozen ones in none."""
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    twice = [own.get(i, "?") for i in set(grouped) if grouped.count(i) > 1]
    left_out = [own[i] for i in trained - set(grouped)]
    frozen = [own.get(i, "a parameter of another model") for i in set(grouped) - trained]
    for names, fault in (
        (twice, "in two parameter groups"),
        (left_out, "trainable but in no parameter group"),
        (frozen, "in a parameter group but not trainable"),
    ):
        if names:
            raise ValueError(f"{fault}: {', '.join(sorted(names)[:5])} ({len(names)} in all)")


def clip_gradients(
    parameters: Sequence[nn.Parameter],
    *,
    norm_of: Callable[[Sequence[Tensor]], Tensor],
    max_norm: float,
) -> Tensor:
    """Scale all gradients down to one norm over all parameters and ranks; returns what it was."""
    norm = norm_of([p.grad for p in parameters if p.grad is not None])
    for alike in by_mesh(parameters):
        clip_grads_with_norm_(alike, max_norm, norm)
    return norm


def step_unless(skip: Tensor, optimizer: AdamW) -> None:
    """Update the parameters unless `skip` (a bool on their device) holds; no host sync."""
    # The fused kernel reads this attribute; torch's gradient scaler uses the same door.
    vars(optimizer)["found_inf"] = skip.float()
    optimizer.step()
    del vars(optimizer)["found_inf"]
