"""The recordings of a batch, taken out of their groups."""

from torch import Tensor

from flare.media import Clips


def heard(clips: Clips) -> list[Tensor]:
    """The recordings in reading order, each as long as it was; what pads them is silence."""
    cut = []
    for group, lengths in zip(clips.waveforms, clips.lengths, strict=True):
        assert all((clip[n:] == 0).all() for clip, n in zip(group, lengths, strict=True))
        cut += [clip[:n] for clip, n in zip(group, lengths.tolist(), strict=True)]
    return [cut[place] for place in clips.order.tolist()]
