"""Default prompts of `spatial_source="point_grid"`: a grid of points through the model's own visual sampler."""

from collections.abc import Iterable, Mapping

import torch

from ...errors import AdapterError


def grid_mask(height: int, width: int, grid_size: int, padded_size: tuple[int, int]) -> torch.Tensor:
    """
    A `padded_size` mask, bool, with `grid_size**2` pixels set: the centres of a regular grid of cells over the image,
    which lies at the top left.

    Raises:
        AdapterError: the image has fewer rows or columns than the grid.
    """
    if min(height, width) < grid_size:
        raise AdapterError(f"an image of {height}x{width} pixels is too small for a grid of {grid_size}x{grid_size}")
    rows, columns = (((torch.arange(grid_size) + 0.5) * (side / grid_size)).floor().long() for side in (height, width))
    mask = torch.zeros(padded_size, dtype=torch.bool)
    mask[rows[:, None], columns] = True
    return mask


@torch.no_grad()
def point_grid_tokens(model, batches: Iterable[Mapping], grid_size: int = 10) -> torch.Tensor:
    """
    The tokens that the model's visual sampler makes of a grid of points, averaged over images (eq. 2): `z_s` of the
    second reading of "spatial prompt".

    Args:
        model: a `SeemForUniversalSegmentation` with its spatial prompt encoder.
        batches: outputs of the image processor: `pixel_values` `(B, 3, H, W)` and, if images are padded, `image_sizes`
            `(B, 2)`.
        grid_size: points per row and column.

    Returns:
        `(3, grid_size**2, hidden_dim)` in float32, one matrix a feature level, points row by row.

    Raises:
        AdapterError: there are no images, or one is smaller than the grid.
    """
    total, count = None, 0
    for batch in batches:
        pixel_values = batch["pixel_values"].to(model.device)
        padded_size = tuple(pixel_values.shape[-2:])
        sizes = batch.get("image_sizes")
        sizes = [padded_size] * len(pixel_values) if sizes is None else torch.as_tensor(sizes).tolist()
        masks = torch.stack([grid_mask(*size, grid_size, padded_size) for size in sizes])[:, None]
        features = model.get_image_features(pixel_values)
        prompts = model.get_spatial_prompts(features, masks.to(model.device))
        # Summed in double precision, so that the mean hardly depends on how the images were batched.
        tokens = torch.stack([level.double().sum(dim=0) for level in prompts.tokens])
        total = tokens if total is None else total + tokens
        count += len(pixel_values)
    if total is None:
        raise AdapterError("the mean over the training images needs at least one image")
    return (total / count).float()
