"""Making a prompt method known to PEFT."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .base.config import PromptConfig, PromptPeftType
from .base.model import PromptTuner


def register_prompt_method(name: str, config_cls: type[PromptConfig], tuner_cls: type[PromptTuner]) -> None:
    """
    Let `get_peft_model`, `PeftModel.from_pretrained` and transformers' `load_adapter` find a method.

    `peft.utils.register_peft_method` accepts members of PEFT's own enum only, and a plain string as key lacks the
    `.value` that PEFT asks for, so the mappings are filled in with a member of our own.
    """
    peft_type = PromptPeftType[name]
    PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = config_cls
    PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = tuner_cls
    PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = tuner_cls.prefix
