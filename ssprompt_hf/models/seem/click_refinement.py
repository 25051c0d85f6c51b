"""Masks that obey clicks: what a mask says at the clicks is corrected, and so is what is like them and near them.

A decoder that has hardly learned from corrections says the same after the fifth click as after the first. But the
clicks are known values of the mask, and the mask features tell which pixels are alike. So the error of the logits at
the clicks is carried to the other pixels by the regression of a Gaussian process, whose kernel is a product of
closeness in the image and likeness of the features, as Zhou et al. do ("Interactive Segmentation as Gaussian Process
Classification", CVPR 2023). A mask that already agrees with all clicks is left as it is, to the bit.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 2.0
"""What a logit at a click must be at least, on the side of its label: a probability of 0.88."""

REACH = 0.2
"""Standard deviation of the kernel in the image, as a share of its shorter side."""

TEMPERATURE = 0.2
"""Of the kernel of features: exp((cosine - 1) / TEMPERATURE)."""

NOISE = 0.01
"""Variance of the clicks, which keeps clicks on one pixel apart."""


class Clicks:
    """
    The clicks on one object, and how alike all pixels are to them.

    Args:
        mask_features: `(C, h, w)`.
        positions: `(n, 2)`, x and y of the clicks as shares of the image without padding.
        labels: `(n,)`, 1 or 0.
        shares: of the height and the width of the masks that the image fills.
    """

    def __init__(self, mask_features: Tensor, positions: np.ndarray, labels: np.ndarray, shares: tuple[float, float]):
        _, height, width = mask_features.shape
        dtype, device = torch.promote_types(mask_features.dtype, torch.float32), mask_features.device
        image_size = torch.tensor([width * shares[1], height * shares[0]], dtype=dtype, device=device)
        clicks = torch.from_numpy(positions).to(device, dtype) * image_size
        column, row = clicks.long().unbind(-1)
        self.column, self.row = column.clamp(0, width - 1), row.clamp(0, height - 1)
        self.wanted = torch.from_numpy(labels).to(device, dtype) * 2 - 1
        features = F.normalize(mask_features.to(dtype), dim=0)
        likeness = torch.einsum("chw,cn->nhw", features, features[:, self.row, self.column])
        y, x = (torch.arange(side, dtype=dtype, device=device) + 0.5 for side in (height, width))
        distance = (y[:, None] - clicks[:, 1, None, None]) ** 2 + (x - clicks[:, 0, None, None]) ** 2
        self.kernel = torch.exp((likeness - 1) / TEMPERATURE - distance / (2 * (REACH * image_size.min()) ** 2))

    def correction(self, mask_logits: Tensor) -> tuple[Tensor, float]:
        """
        What is to be added to `mask_logits` `(h, w)`, and how much that is: the squared norm of the correction, 0 for
        a mask that agrees with all clicks.
        """
        found = mask_logits[self.row, self.column].to(self.wanted.dtype)
        error = torch.where(self.wanted * found >= MARGIN, 0, MARGIN * self.wanted - found)
        between = self.kernel[:, self.row, self.column]
        between = (between + between.T) / 2 + NOISE * torch.eye(len(error), dtype=error.dtype, device=error.device)
        weights = torch.linalg.solve(between, error)
        return torch.einsum("n,nhw->hw", weights, self.kernel), (weights @ error).item()

    def obeyed_by(self, candidates: Tensor) -> Tensor:
        """Of the masks `(n, h, w)`, logits, the one that needs the smallest correction, the first of equal ones, with
        this correction: `(1, h, w)`."""
        corrections = [self.correction(mask) for mask in candidates]
        sizes = [size for _, size in corrections]
        best = sizes.index(min(sizes))
        if sizes[best] == 0:
            return candidates[best : best + 1]
        return (candidates[best] + corrections[best][0]).to(candidates.dtype)[None]
