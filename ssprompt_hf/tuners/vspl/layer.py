import torch
from torch import nn

from ...models.interface import PromptSlot
from ..base.layer import PromptLayer, Shape
from ..peft_compat import BufferDict
from .config import VSPLConfig


def grid_coordinates(grid_size: int) -> torch.Tensor:
    """Centres of a regular grid of cells over the image, row by row: `(grid_size**2, 2)`, x and y in 0..1."""
    centres = (torch.arange(grid_size) + 0.5) / grid_size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


class VSPLLayer(PromptLayer):
    """
    The slot of point coordinates, with learned ones; or that of semantic prompts, where nothing is learned but the
    adapter's classes are kept.

    Points are stored as logits, so that whatever a step of training does they stay inside the image.

    Args:
        base_layer (`nn.Module`), slot (`PromptSlot`), like (`torch.Tensor`): see [`PromptLayer`].
    """

    adapter_layer_names = ("vspl_logits",)
    other_param_names = ("vspl_default",)

    def __init__(self, base_layer: nn.Module, slot: PromptSlot, like: torch.Tensor):
        super().__init__(base_layer, slot, like)
        self.vspl_logits = nn.ParameterDict()
        self.vspl_default = BufferDict(persistent=True)
        self._shapes: dict[str, Shape] = {}  # of the default prompts of pending adapters

    def update_points(self, adapter_name: str, config: VSPLConfig) -> None:
        """Add an adapter with a regular grid of points."""
        self.configs[adapter_name] = config
        coordinates = grid_coordinates(config.point_grid_size)
        logits = coordinates.to(self.reference.device, self.adapter_dtype).logit()
        self.vspl_logits[adapter_name] = nn.Parameter(logits)

    def update_classes(
        self, adapter_name: str, config: VSPLConfig, default: torch.Tensor | None, shape: Shape
    ) -> None:
        """Add an adapter with its default semantic prompts of such a shape; None where they are still to come."""
        self.configs[adapter_name] = config
        if default is None:
            self.pending.add(adapter_name)
            self._shapes[adapter_name] = shape
            return
        self.vspl_default[adapter_name] = (
            default.detach().to(torch.promote_types(default.dtype, torch.float32)).clone()
        )

    def tensor_shapes(self, adapter_name: str) -> dict[str, Shape]:
        """See [`PromptLayer.tensor_shapes`]."""
        if adapter_name not in self.pending:
            return super().tensor_shapes(adapter_name)
        return {"vspl_default": self._shapes[adapter_name]}

    def default_prompt(self, adapter_name: str) -> torch.Tensor | None:
        """See [`PromptLayer.default_prompt`]."""
        self._check_not_pending(adapter_name)
        return self.vspl_default[adapter_name] if self.holds_classes else self.base_prompt

    def adapter_prompt(self, adapter_name: str) -> torch.Tensor:
        """`(P, 2)`, x and y in 0..1, or the semantic prompts."""
        return self.default_prompt(adapter_name) if self.holds_classes else self.vspl_logits[adapter_name].sigmoid()

    def _cast(self, prompt: torch.Tensor) -> torch.Tensor:
        # Half precision cannot address the pixels of a large image.
        return super()._cast(prompt) if self.holds_classes else prompt

    def __repr__(self) -> str:
        return "vspl." + super().__repr__()
