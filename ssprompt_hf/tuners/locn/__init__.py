from ..peft_compat import register_prompt_method
from .config import LOCNConfig
from .layer import LOCNLayer
from .model import LOCNTuner

__all__ = ["LOCNConfig", "LOCNLayer", "LOCNTuner"]

register_prompt_method("LOCN", LOCNConfig, LOCNTuner)
