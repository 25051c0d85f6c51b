from ..peft_compat import register_prompt_method
from .config import VSPLConfig
from .layer import VSPLLayer
from .model import VSPLTuner

__all__ = ["VSPLConfig", "VSPLLayer", "VSPLTuner"]

register_prompt_method("VSPL", VSPLConfig, VSPLTuner)
