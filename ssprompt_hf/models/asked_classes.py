"""Which classes an image is asked about, where they are decoded one by one."""

import torch

from ..errors import SSPromptError


def asked_classes(
    class_indices: list[torch.Tensor] | None, num_images: int, num_classes: int, device: torch.device | str
) -> list[torch.Tensor]:
    """
    `class_indices` of a call, checked and complete.

    Args:
        class_indices: the argument of `forward`, one tensor an image; None for all classes.
        num_images, num_classes: B and K.
        device: for the result.

    Returns:
        int64 `(C_i,)`, one an image.

    Raises:
        SSPromptError: not one tensor an image, or indices that are none of a class.
    """
    if class_indices is None:
        return [torch.arange(num_classes, device=device)] * num_images
    if len(class_indices) != num_images:
        raise SSPromptError(f"class_indices are for {len(class_indices)} images, but there are {num_images}")
    indices = [torch.as_tensor(classes, dtype=torch.long) for classes in class_indices]
    for classes in indices:
        if classes.ndim != 1 or len(classes) == 0 or classes.min() < 0 or classes.max() >= num_classes:
            raise SSPromptError(
                f"class_indices holds {classes.tolist()}; an image needs a list of numbers from 0 to "
                f"{num_classes - 1}, at least one"
            )
    return [classes.to(device) for classes in indices]
