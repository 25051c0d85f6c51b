"""Default prompts of `spatial_source="point_grid"`: a grid of points through the model's own prompt encoder."""

from collections.abc import Iterable, Mapping

import torch

from ...errors import AdapterError
from ...models.interface import PromptableModel


@torch.no_grad()
def point_grid_tokens(model: PromptableModel, batches: Iterable[Mapping], grid_size: int = 10) -> torch.Tensor:
    """
    What the model's prompt encoder makes of a grid of points, averaged over images (eq. 2): `z_s` of the second
    reading of "spatial prompt".

    Args:
        model: with its prompt encoder for points.
        batches: outputs of the image processor: `pixel_values` `(B, 3, H, W)` and, if images are padded, `image_sizes`
            `(B, 2)`.
        grid_size: points per row and column.

    Returns:
        float32, in the shape of the slot; in SEEM `(3, grid_size**2, hidden_dim)`, points row by row.

    Raises:
        AdapterError: there are no images, or one is smaller than the grid; or the model has no points.
    """
    total, count = None, 0
    for batch in batches:
        pixel_values = batch["pixel_values"].to(model.device)
        sizes = batch.get("image_sizes")
        sizes = [pixel_values.shape[-2:]] * len(pixel_values) if sizes is None else sizes
        prompts = model.point_prompts(pixel_values, torch.as_tensor(sizes), grid_size)
        # Summed in double precision, so that the mean hardly depends on how the images were batched.
        tokens = prompts.double().sum(dim=0)
        total = tokens if total is None else total + tokens
        count += len(pixel_values)
    if total is None:
        raise AdapterError("the mean over the training images needs at least one image")
    return (total / count).float()
