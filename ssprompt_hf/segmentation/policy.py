"""By which rules masks become results."""

from dataclasses import dataclass, replace

from ..errors import SSPromptError


@dataclass(frozen=True)
class InferencePolicy:
    """
    The thresholds of `predict`, `evaluate` and `explain`.

    Args:
        mask_threshold: probability from which a pixel lies in a mask.
        segment_threshold: panoptic segments need a class score above it.
        overlap_threshold: panoptic segments that keep less than this share of their mask are left out.
        instance_threshold: least score of an instance that `predict` shows. Average precision ranks all of them.
        top_k: so many pairs of mask and class, the best scored, are candidates for instances.

    Raises:
        SSPromptError: a threshold is no number from 0 to 1.
    """

    mask_threshold: float = 0.5
    segment_threshold: float = 0.8
    overlap_threshold: float = 0.8
    instance_threshold: float = 0.5
    top_k: int = 100

    def __post_init__(self):
        for name in ("mask_threshold", "segment_threshold", "overlap_threshold", "instance_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise SSPromptError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")

    def with_threshold(self, threshold: float | None) -> "InferencePolicy":
        """With another least score of instances and of panoptic segments; None leaves both as they are.

        Raises:
            SSPromptError: `threshold` is no score.
        """
        if threshold is None:
            return self
        if not 0 <= threshold <= 1:
            raise SSPromptError(f"threshold is {threshold}; scores go from 0 to 1")
        return replace(self, segment_threshold=threshold, instance_threshold=threshold)
