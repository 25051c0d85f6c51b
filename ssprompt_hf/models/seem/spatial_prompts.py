"""SEEM's visual sampler: strokes on an image become prompt embeddings."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput


@dataclass
class SeemSpatialPrompts(ModelOutput):
    """Embeddings of the strokes of a batch of images, independent of the image they are applied to.

    Args:
        mask_embeds (`(batch, objects, mask_feature_size)`):
            Mean mask feature under the positive strokes of each object.
        tokens (three tensors `(batch, points, hidden_dim)`, coarsest level first):
            One token per stroke pixel.
        token_objects (`(batch, points)`, int64):
            The object each token belongs to; -1 for padding.
    """

    mask_embeds: torch.Tensor | None = None
    tokens: tuple[torch.Tensor, ...] | None = None
    token_objects: torch.Tensor | None = None


def sample_features(features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear samples of `features` `(B, C, H, W)` at `points` `(B, P, 2)`, x and y in 0..1; returns `(B, P, C)`.

    Coordinates 0 and 1 are the centres of the first and last pixel, as in the official sampler. Sampled in at least
    float32: half precision cannot address the pixels of a large image.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    grid = 2.0 * points.to(dtype)[:, :, None] - 1.0
    sampled = F.grid_sample(features.to(dtype), grid, mode="bilinear", align_corners=True)
    return sampled[..., 0].transpose(1, 2).to(features.dtype)


def stroke_points(masks: torch.Tensor, max_points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of the strokes of one image, at most `max_points` of them.

    The official code draws the pixels at random when there are more; here each object gets an equal share, evenly
    spaced along its pixels, so that a prediction can be repeated.

    Args:
        masks: `(objects, H, W)`, bool.

    Returns:
        points `(P, 2)`, float: x / W and y / H; and their objects `(P,)`, int64.
    """
    height, width = masks.shape[-2:]
    index = masks.nonzero()
    if len(index) > max_points:
        counts = masks.flatten(1).sum(1)
        present = counts[counts > 0]
        share = max(max_points // len(present), 1)
        starts = present.cumsum(0) - present
        kept = [
            start + torch.arange(min(share, int(count)), device=masks.device) * int(count) // min(share, int(count))
            for start, count in zip(starts, present)
        ]
        index = index[torch.cat(kept)[:max_points]]
    points = torch.stack([index[:, 2] / width, index[:, 1] / height], dim=1)
    return points, index[:, 0]


class SeemSpatialPromptEncoder(nn.Module):
    """Turns positive and negative strokes into `SeemSpatialPrompts`.

    Args:
        hidden_dim: channels of the decoder.
        max_points: most pixels used of the positive, and of the negative, strokes of one image.
        empty_value: mean feature of an object without positive strokes (0 in decoder v0, -1 in v1).
    """

    def __init__(self, hidden_dim: int, max_points: int, empty_value: float):
        super().__init__()
        self.max_points = max_points
        self.empty_value = empty_value
        self.projections = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim, bias=False) for _ in range(3))
        self.polarity = nn.Parameter(torch.empty(2, hidden_dim))

    def point_tokens(
        self, level_features: tuple[torch.Tensor, ...], points: torch.Tensor, signs: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """
        The tokens of single points, differentiable in their coordinates.

        Args:
            level_features: three maps `(B, hidden_dim, h_i, w_i)` with level embeddings added, coarsest first.
            points: `(B, P, 2)`, x and y in 0..1 of the padded image.
            signs: `(B, P)`, int64, 0 for positive and 1 for negative points; by default all are positive.

        Returns:
            three tensors `(B, P, hidden_dim)`.
        """
        polarity = self.polarity[0] if signs is None else self.polarity[signs]
        # Sampling is linear, so sampling first and projecting the few points is the same as projecting whole maps.
        return tuple(
            projection(sample_features(features, points)) + polarity
            for projection, features in zip(self.projections, level_features)
        )

    def forward(
        self,
        mask_features: torch.Tensor,
        level_features: tuple[torch.Tensor, ...],
        positive_masks: torch.Tensor,
        negative_masks: torch.Tensor | None = None,
    ) -> SeemSpatialPrompts:
        """
        Args:
            mask_features: `(B, mask_feature_size, h, w)`.
            level_features: three maps `(B, hidden_dim, h_i, w_i)` with level embeddings added, coarsest first.
            positive_masks, negative_masks: `(B, objects, H, W)`, bool, over the padded image.
        """
        if negative_masks is None:
            negative_masks = torch.zeros_like(positive_masks)
        num_objects = positive_masks.shape[1]
        positive = [stroke_points(mask, self.max_points) for mask in positive_masks]
        negative = [stroke_points(mask, self.max_points) for mask in negative_masks]
        points, objects, signs = [], [], []
        for (positive_xy, positive_object), (negative_xy, negative_object) in zip(positive, negative):
            points.append(torch.cat([positive_xy, negative_xy]))
            objects.append(torch.cat([positive_object, negative_object]))
            signs.append(torch.cat([torch.zeros_like(positive_object), torch.ones_like(negative_object)]))
        points = nn.utils.rnn.pad_sequence(points, batch_first=True)
        objects = nn.utils.rnn.pad_sequence(objects, batch_first=True, padding_value=-1)
        signs = nn.utils.rnn.pad_sequence(signs, batch_first=True)

        tokens = self.point_tokens(level_features, points, signs)
        members = (objects[:, None] == torch.arange(num_objects, device=objects.device)[None, :, None]) & (signs == 0)[
            :, None
        ]
        members = members.to(mask_features.dtype)
        counts = members.sum(-1, keepdim=True)
        sums = members @ sample_features(mask_features, points)
        mask_embeds = torch.where(counts > 0, sums / counts.clamp(min=1), self.empty_value)
        return SeemSpatialPrompts(mask_embeds=mask_embeds, tokens=tokens, token_objects=objects)
