"""By which rules masks become results."""

from dataclasses import dataclass, replace

from ..errors import SSPromptError

MIN_AREA_SHARE = 1e-4
"""Of an image: smaller instances and panoptic segments are specks, and are not shown by default."""


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
        min_area: pixels of the smallest instance or panoptic segment that `predict` shows; None for `MIN_AREA_SHARE`
            of the image. Metrics look at all of them.

    Raises:
        SSPromptError: a threshold is no number from 0 to 1, or an area is negative.
    """

    mask_threshold: float = 0.5
    segment_threshold: float = 0.8
    overlap_threshold: float = 0.8
    instance_threshold: float = 0.5
    top_k: int = 100
    min_area: int | None = None

    def __post_init__(self):
        for name in ("mask_threshold", "segment_threshold", "overlap_threshold", "instance_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise SSPromptError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.min_area is not None and self.min_area < 0:
            raise SSPromptError(f"min_area is {self.min_area}; it must be 0 or more pixels")

    def least_area(self, num_pixels: int) -> int:
        """`min_area` in an image of so many pixels."""
        return max(1, round(MIN_AREA_SHARE * num_pixels)) if self.min_area is None else self.min_area

    def with_limits(self, threshold: float | None, min_area: int | None) -> "InferencePolicy":
        """
        With another least score and smallest area of instances and of panoptic segments; None leaves them as they are.

        Raises:
            SSPromptError: `threshold` is no score, or `min_area` is negative.
        """
        limits = {} if min_area is None else {"min_area": min_area}
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise SSPromptError(f"threshold is {threshold}; scores go from 0 to 1")
            limits |= {"segment_threshold": threshold, "instance_threshold": threshold}
        return replace(self, **limits)
