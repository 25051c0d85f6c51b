"""What the method of the active adapter says about its training, and what the adapter is told of it."""

import copy
from typing import Any

from peft import PeftConfig
from torch import nn
from transformers import TrainingArguments

from ..tuners.base import PromptLayer
from .arguments import SSPromptTrainingArguments, open_arguments

# Of adapters that are none of ours.
OTHER_DEFAULTS = {"learning_rate": TrainingArguments.learning_rate, "shrinkage": 0.0}


def active_adapter_name(model: nn.Module) -> str | None:
    """Of the active adapter, if there is one."""
    if not hasattr(model, "peft_config"):
        return None
    active = model.active_adapters  # a property of PEFT's models, a method of transformers'
    names = active() if callable(active) else active
    return names[0] if names else None


def active_config(model: nn.Module) -> PeftConfig | None:
    """Of the active adapter, if there is one."""
    name = active_adapter_name(model)
    return None if name is None else model.peft_config[name]


def with_method_defaults(args: SSPromptTrainingArguments, model: nn.Module) -> SSPromptTrainingArguments:
    """`args`, or a copy in which what is not given is as suits the method of the active adapter."""
    missing = open_arguments(args, getattr(active_config(model), "training_defaults", OTHER_DEFAULTS))
    if missing:
        args = copy.copy(args)
        for name, value in missing.items():
            setattr(args, name, value)
    return args


def training_record(args: SSPromptTrainingArguments, steps: int, loss: str) -> dict[str, Any]:
    """How an adapter was learned, for its configuration: `steps`, `batch_size` over all processes, `learning_rate`,
    `optimizer` and `loss`, and whether it began with prototypes."""
    return {
        **({"prototypes": True} if args.prototypes else {}),
        "steps": steps,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning_rate": args.learning_rate,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "loss": loss,
    }


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
