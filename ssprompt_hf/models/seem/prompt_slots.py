"""Prompt slots: the joints between the base model and the methods that learn prompts.

A slot is a small module whose `weight` holds the default prompt embeddings of one kind; calling it returns them. A
tuner wraps a slot as LoRA wraps a linear layer; it never reaches into the decoder.
"""

import torch
from torch import nn


class SeemObjectQueries(nn.Module):
    """Spatial prompts: the content embeddings of the object queries, `z_s` of eq. 4."""

    def __init__(self, num_queries: int, hidden_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_queries, hidden_dim))

    def forward(self) -> torch.Tensor:
        """Returns `(num_queries, hidden_dim)`."""
        return self.weight


class SeemClassEmbeddings(nn.Module):
    """Semantic prompts: one unit-length embedding per class, `z_t` of eq. 6, and one for "background" as last row.

    The embeddings are a buffer that travels with the weights, so that a model whose class names have been set needs no
    text encoder any more. Without class names the buffer is `None` and the slot returns `None`. A tuner may put
    several embeddings of a class side by side, and add one column, the bias of each class's logit.
    """

    def __init__(
        self, num_classes: int | None, projection_dim: int, prompts_per_class: int = 1, has_bias: bool = False
    ):
        super().__init__()
        self.projection_dim = projection_dim
        width = prompts_per_class * projection_dim + has_bias
        self.register_buffer("weight", None if num_classes is None else torch.zeros(num_classes + 1, width))

    def forward(self) -> torch.Tensor | None:
        """Returns `(num_classes + 1, projection_dim)`, perhaps several times as many columns and one more, or `None`
        if no class names have been set."""
        return self.weight


class SeemDeepPrompts(nn.Module):
    """Spatial prompts inside the decoder: offsets of the object queries' states, after Jia et al., "Visual prompt
    tuning" (2022), whose deep prompts enter every layer.

    Empty in the base model. The P offsets of a query are added to its states before the last P predictions: 1 is the
    last one alone, as many as the decoder has layers is after each of them.
    """

    def __init__(self, num_offsets: int | None, num_queries: int, hidden_dim: int):
        super().__init__()
        shape = num_offsets, num_queries, hidden_dim
        self.register_buffer("weight", None if num_offsets is None else torch.zeros(shape))

    def forward(self) -> torch.Tensor | None:
        """Returns `(P, num_queries, hidden_dim)`, or `None` where nothing is added."""
        return self.weight


class SeemClassMasks(nn.Module):
    """Spatial prompts behind the decoder: a mask of each class, as a linear function of the mask features.

    Empty in the base model. A row holds the function's weights, its bias, and which share of the class's score the
    mask has, 0 to 1; the rest is what the object queries say.
    """

    def __init__(self, num_classes: int | None, mask_feature_size: int):
        super().__init__()
        shape = num_classes, mask_feature_size + 2
        self.register_buffer("weight", None if num_classes is None else torch.zeros(shape))

    def forward(self) -> torch.Tensor | None:
        """Returns `(num_classes, mask_feature_size + 2)`, or `None` where there are no such masks."""
        return self.weight


class SeemPointTokens(nn.Module):
    """Spatial prompts of the second kind: one token per point of a grid and per feature level.

    Empty in the base model. A tuner with `spatial_source="point_grid"` fills it; the decoder then runs one copy of an
    object query per point, which attends to the token of its point.
    """

    def __init__(self, num_points: int | None, hidden_dim: int):
        super().__init__()
        self.register_buffer("weight", None if num_points is None else torch.zeros(3, num_points, hidden_dim))

    def forward(self) -> torch.Tensor | None:
        """Returns `(3, num_points, hidden_dim)`, or `None` for generic segmentation by object queries."""
        return self.weight


class SeemPointCoordinates(nn.Module):
    """Spatial prompts of the third kind: points given by their coordinates, whose tokens are sampled from each image.

    Empty in the base model, and used as `SeemPointTokens` are. Coordinates are x and y from 0 to 1, shares of the
    image without its padding.
    """

    def __init__(self, num_points: int | None):
        super().__init__()
        self.register_buffer("weight", None if num_points is None else torch.zeros(num_points, 2))

    def forward(self) -> torch.Tensor | None:
        """Returns `(num_points, 2)`, or `None` for prompts that do not depend on the image."""
        return self.weight
