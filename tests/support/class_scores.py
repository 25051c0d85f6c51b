"""Class scores at full size, which inference only looks at tile by tile."""

import torch

from ssprompt_hf.segmentation.predictions import _tile_scores
from ssprompt_hf.segmentation.tiles import MaskGeometry, mask_tiles


def semantic_scores(class_logits: torch.Tensor, mask_logits: torch.Tensor, geometry: MaskGeometry) -> torch.Tensor:
    """`(K, *target_size)`: what `QueryPrediction.class_map` takes the maximum of, for one image."""
    dtype = torch.promote_types(class_logits.dtype, torch.float32)
    weights = class_logits.softmax(dim=-1, dtype=dtype)[:, :-1].T
    result = weights.new_empty(len(weights), *geometry.target_size)
    for tile in mask_tiles(mask_logits, geometry):
        result[:, tile.rows, tile.columns] = _tile_scores(tile, weights)
    return result
