"""Everything taken from PEFT, and from PyTorch on its behalf, beyond their public classes, and why."""

import enum

# A method of one's own is made of these two, which PEFT documents for that purpose but does not export.
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

# As `nn.ParameterDict`, for tensors that are not learned: PEFT finds, renames and deletes adapters in it.
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from torch import nn

__all__ = [
    "BaseTuner",
    "BaseTunerLayer",
    "BufferDict",
    "PromptPeftType",
    "check_adapters_to_merge",
    "compiled_in_place",
    "config_class",
    "peft_type_name",
    "register_prompt_method",
    "tuner_class",
]


class PromptPeftType(str, enum.Enum):
    """PEFT types of this package; PEFT's own enum is closed. A member equals, and hashes as, the text in a file."""

    SSPROMPT = "SSPROMPT"
    COOP = "COOP"
    LOCN = "LOCN"
    VSPL = "VSPL"


def register_prompt_method(name: str, config_cls: type, tuner_cls: type) -> None:
    """
    Let `get_peft_model`, `PeftModel.from_pretrained` and transformers' `load_adapter` find a method.

    `peft.utils.register_peft_method` accepts members of PEFT's own enum only, and a plain string as key lacks the
    `.value` that PEFT asks for, so the mappings are filled in with a member of our own.
    """
    peft_type = PromptPeftType[name]
    PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = config_cls
    PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = tuner_cls
    PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = tuner_cls.prefix


def tuner_class(peft_type: str) -> type[BaseTuner]:
    """The tuner of a method, ours or PEFT's."""
    return PEFT_TYPE_TO_TUNER_MAPPING[peft_type]


def config_class(peft_type: str | None) -> type | None:
    """The configuration of one of our methods; None for anything else."""
    if not isinstance(peft_type, str) or peft_type not in PromptPeftType._value2member_map_:
        return None
    return PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)


def peft_type_name(cls: type) -> str | None:
    """The `peft_type` in the files of a method; None for a class that is no method."""
    return next((key.value for key, value in PEFT_TYPE_TO_CONFIG_MAPPING.items() if value is cls), None)


def compiled_in_place(model: nn.Module) -> nn.Module:
    """
    The model inside the wrapper that `torch.compile` makes, compiled in the same way: its modules have the names that
    slots and files know. PEFT leaves the wrapper where it is, whose prefix would get into all names. PyTorch has no
    public way from the wrapper to what it was made with.
    """
    inside = getattr(model, "_orig_mod", None)
    if inside is None:
        return model
    inside._compiled_call_impl = model.dynamo_ctx(inside._call_impl)
    return inside
