import torch
from peft.tuners._buffer_dict import BufferDict
from torch import nn

from ..base.layer import LOAD_CLASSES, PromptLayer


def grid_coordinates(grid_size: int) -> torch.Tensor:
    """Centres of a regular grid of cells over the image, row by row: `(grid_size**2, 2)`, x and y in 0..1."""
    centres = (torch.arange(grid_size) + 0.5) / grid_size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


class VSPLLayer(PromptLayer):
    """
    The slot of point coordinates, with learned ones; or that of class embeddings, where nothing is learned but the
    adapter's classes are kept.

    Points are stored as logits, so that whatever a step of training does they stay inside the image.

    Args:
        base_layer (`nn.Module`), like (`torch.Tensor`): see [`PromptLayer`].
        holds_classes (`bool`): which of the two slots it is.
    """

    adapter_layer_names = ("vspl_logits",)
    other_param_names = ("vspl_default",)

    def __init__(self, base_layer: nn.Module, like: torch.Tensor, holds_classes: bool):
        super().__init__(base_layer, like)
        self.holds_classes = holds_classes
        self.vspl_logits = nn.ParameterDict()
        self.vspl_default = BufferDict(persistent=True)

    def update_points(self, adapter_name: str, grid_size: int) -> None:
        """Add an adapter with a regular grid of `grid_size**2` points."""
        dtype = torch.promote_types(self.reference.dtype, torch.float32)
        logits = grid_coordinates(grid_size).to(self.reference.device, dtype).logit()
        self.vspl_logits[adapter_name] = nn.Parameter(logits)

    def update_classes(self, adapter_name: str, default: torch.Tensor) -> None:
        """Add an adapter with its default class embeddings `(K + 1, P)`; NaN where they are not known yet."""
        default = default.detach().to(torch.promote_types(default.dtype, torch.float32))
        self.vspl_default[adapter_name] = default.clone()
        self._unchecked_defaults.add(adapter_name)

    def default_prompt(self, adapter_name: str) -> torch.Tensor | None:
        """See [`PromptLayer.default_prompt`]."""
        if not self.holds_classes:
            return self.base_prompt
        return self._checked_default(adapter_name, self.vspl_default[adapter_name], "semantic", LOAD_CLASSES)

    def adapter_prompt(self, adapter_name: str) -> torch.Tensor:
        """`(P, 2)`, x and y in 0..1, or the class embeddings."""
        return self.default_prompt(adapter_name) if self.holds_classes else self.vspl_logits[adapter_name].sigmoid()

    def _cast(self, prompt: torch.Tensor) -> torch.Tensor:
        # Half precision cannot address the pixels of a large image.
        return super()._cast(prompt) if self.holds_classes else prompt

    def __repr__(self) -> str:
        return "vspl." + super().__repr__()
