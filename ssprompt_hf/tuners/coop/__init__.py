from ..peft_compat import register_prompt_method
from .config import CoOpConfig
from .layer import CoOpLayer
from .model import CoOpTuner

__all__ = ["CoOpConfig", "CoOpLayer", "CoOpTuner"]

register_prompt_method("COOP", CoOpConfig, CoOpTuner)
