"""Published figures of a run held against each other, by arithmetic."""

from dataclasses import dataclass

from common.parallel.plan.cluster import GPUS


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What was said about a run."""

    gpus: int
    gpu: str
    days: float
    tokens: float
    gpu_hours: float | None = None


def contradictions(claim: Claim, *, flops_per_token: float, efficiency: float) -> list[str]:
    """Sentences with the numbers that cannot all be true; none when they can."""
    found = []
    peak = GPUS[claim.gpu].peak_flops
    hours = claim.gpus * claim.days * 24
    stated = claim.gpu_hours
    if stated is not None and not 0.9 < stated / hours < 1.1:
        found.append(
            f"{claim.gpus} GPUs x {claim.days:g} days are {hours:,.0f} GPU-hours, not "
            f"{stated:,.0f}, which are {stated / claim.gpus / 24:,.0f} days on {claim.gpus} GPUs"
        )
    needed = claim.tokens * flops_per_token / (hours * 3600)
    if needed > peak:
        real = claim.tokens * flops_per_token / (peak * efficiency) / 3600
        found.append(
            f"{claim.tokens:.3g} tokens in {claim.days:g} days on {claim.gpus} {claim.gpu} need "
            f"{needed / 1e15:.2f} PFLOP/s per GPU, {needed / peak:.1f} x its peak of "
            f"{peak / 1e12:.0f} TFLOP/s; at {efficiency:.0%} of it they take {real:,.0f} "
            f"GPU-hours, {real / 24 / claim.gpus:,.0f} days on {claim.gpus} GPUs"
        )
    if stated is not None:
        bought = stated * 3600 * peak * efficiency / flops_per_token
        if not 0.9 < bought / claim.tokens < 1.1:
            found.append(
                f"{stated:,.0f} GPU-hours buy {bought:.3g} tokens at {efficiency:.0%} of the peak, "
                f"not {claim.tokens:.3g}"
            )
    return found
