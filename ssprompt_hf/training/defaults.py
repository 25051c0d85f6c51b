"""What the method of the active adapter says about its training."""

import copy

from peft import PeftConfig
from torch import nn
from transformers import TrainingArguments

from ..tuners.base import PromptLayer
from .arguments import SSPromptTrainingArguments, open_arguments

# Of adapters that are none of ours.
OTHER_DEFAULTS = {"learning_rate": TrainingArguments.learning_rate, "shrinkage": 0.0}


def active_config(model: nn.Module) -> PeftConfig | None:
    """Of the active adapter, if there is one."""
    if not hasattr(model, "peft_config"):
        return None
    active = model.active_adapters  # a property of PEFT's models, a method of transformers'
    names = active() if callable(active) else active
    return model.peft_config[names[0]] if names else None


def with_method_defaults(args: SSPromptTrainingArguments, model: nn.Module) -> SSPromptTrainingArguments:
    """`args`, or a copy in which what is not given is as suits the method of the active adapter."""
    missing = open_arguments(args, getattr(active_config(model), "training_defaults", OTHER_DEFAULTS))
    if missing:
        args = copy.copy(args)
        for name, value in missing.items():
            setattr(args, name, value)
    return args


def learning_rate_scales(model: nn.Module) -> dict[nn.Parameter, float]:
    """Of all parameters that are learned and belong to a prompt."""
    scales = {}
    for layer in model.modules():
        if isinstance(layer, PromptLayer):
            for name in layer.adapter_layer_names:
                for adapter, parameter in getattr(layer, name).items():
                    if parameter.requires_grad:
                        scales[parameter] = layer.learning_rate_scale(adapter, name)
    return scales
