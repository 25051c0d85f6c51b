from dataclasses import dataclass

from ..base.config import MAX_GRID_SIZE, PromptConfig, check_range
from ..peft_compat import PromptPeftType


@dataclass
class VSPLConfig(PromptConfig):
    """
    Configuration of VSPL, the baseline of the SSPrompt paper that learns spatial prompts in the space of the image:
    the coordinates of a grid of points, which the model's visual sampler turns into prompts of each image.

    Untrained, it is the regular grid, and so not the same as the base model without prompts.

    Args:
        point_grid_size (`int`, *optional*, defaults to 10):
            Points per row and column of the grid.

    Raises:
        AdapterError: a value is out of range.
    """

    point_grid_size: int = 10

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PromptPeftType.VSPL
        check_range("point_grid_size", self.point_grid_size, 1, MAX_GRID_SIZE)

    @property
    def learned(self) -> str:
        """See [`PromptConfig.learned`]."""
        return "coordinates of spatial prompts"

    @property
    def default_learning_rate(self) -> float:
        """See [`PromptConfig.default_learning_rate`]."""
        return 0.3

    def learns(self, kind: str) -> bool:
        """See [`PromptConfig.learns`]."""
        return kind == "spatial"

    @property
    def needs(self) -> tuple[str, ...]:
        """See [`PromptConfig.needs`]."""
        return ("points",)

    def prompt_encoders(self, is_new: bool, is_trainable: bool) -> tuple[str, ...]:
        """See [`PromptConfig.prompt_encoders`]: every image is looked at by the visual sampler."""
        return ("spatial",)
