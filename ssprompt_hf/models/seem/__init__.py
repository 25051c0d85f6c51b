"""SEEM as transformers models, registered with the Auto classes on import."""

from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageSegmentation,
    AutoModelForUniversalSegmentation,
    AutoProcessor,
)

from ..registry import load_prompt_methods
from .configuration_seem import (
    SeemConfig,
    SeemDavitConfig,
    SeemEfficientNetLiteConfig,
    SeemFocalNetConfig,
    SeemSamVitConfig,
    SeemTextConfig,
)
from .image_processing_seem import SeemImageProcessor
from .modeling_seem import (
    SeemForUniversalSegmentation,
    SeemForUniversalSegmentationOutput,
    SeemModel,
    SeemPreTrainedModel,
)
from .outputs import SeemImageFeatures, SeemQueryStates
from .processing_seem import SeemProcessor
from .spatial_prompts import SeemSpatialPrompts

AutoModel.register(SeemConfig, SeemModel)
AutoModelForUniversalSegmentation.register(SeemConfig, SeemForUniversalSegmentation)
# `pipeline("image-segmentation")` looks here.
AutoModelForImageSegmentation.register(SeemConfig, SeemForUniversalSegmentation)
AutoImageProcessor.register(
    SeemConfig, image_processor_classes={"pil": SeemImageProcessor, "torchvision": SeemImageProcessor}
)
AutoProcessor.register(SeemConfig, SeemProcessor)

load_prompt_methods()

__all__ = [
    "SeemConfig",
    "SeemDavitConfig",
    "SeemEfficientNetLiteConfig",
    "SeemFocalNetConfig",
    "SeemForUniversalSegmentation",
    "SeemForUniversalSegmentationOutput",
    "SeemImageFeatures",
    "SeemImageProcessor",
    "SeemModel",
    "SeemPreTrainedModel",
    "SeemProcessor",
    "SeemQueryStates",
    "SeemSamVitConfig",
    "SeemSpatialPrompts",
    "SeemTextConfig",
]
