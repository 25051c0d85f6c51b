"""What transformers and its `Trainer` expect of the `forward` of a model, for all families of base models."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .transformers_compat import can_return_tuple

SWITCHES = frozenset(("output_attentions", "output_hidden_states"))
"""Arguments that transformers' models take without naming them."""


def argument_names(cls: "type[ForwardConventions]") -> frozenset[str]:
    """What the `forward` of a class, or of those it is made of, names as arguments, its `unnamed_arguments`, and
    `SWITCHES`."""
    names = {*SWITCHES, *cls.unnamed_arguments}
    for base in cls.__mro__:
        if "forward" in vars(base):
            parameters = inspect.signature(base.forward).parameters.values()
            names |= {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return frozenset(names - {"self"})


def model_forward(forward: Callable) -> Callable:
    """
    Decorator for the `forward` of a [`PromptableModel`] that takes `**kwargs` to pass them on.

    With `return_dict=False` it returns a tuple of what is not None. An argument that no `forward` of the model names,
    nor `unnamed_arguments`, is a TypeError, as in any function of Python, and nothing that is lost on the way.
    """

    @can_return_tuple
    @functools.wraps(forward)
    def checked(self, *args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in self.forward_arguments:
                raise TypeError(
                    f"{type(self).__name__}.forward() got an unexpected keyword argument {name!r}; it takes "
                    f"{', '.join(sorted(self.forward_arguments))}"
                )
        return forward(self, *args, **kwargs)

    return checked


class ForwardConventions:
    """What `transformers.Trainer` is told of a model; part of every [`PromptableModel`]."""

    accepts_loss_kwargs = False
    """Tells `transformers.Trainer` to average the losses of accumulated batches itself."""

    no_predictions: tuple[str, ...] = ()
    """Fields of the output that `transformers.Trainer` is not to gather in evaluation."""

    unnamed_arguments: tuple[str, ...] = ()
    """What `forward` takes among its `**kwargs`."""

    forward_arguments: frozenset[str] = frozenset()
    """Names of the arguments of `forward`; see [`model_forward`]."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.forward_arguments = argument_names(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.no_predictions:
            self.config.keys_to_ignore_at_inference = list(self.no_predictions)
