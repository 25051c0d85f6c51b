"""Adapters by the methods of transformers, in place of a `PeftModel`."""

import contextlib
import logging

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError

from ...errors import AdapterError


class NamesAdapterClasses:
    """
    For a `PreTrainedModel`: after `load_adapter`, `set_adapter` and so on its configuration names the classes of the
    adapter that is active, or its own. Prompts of classes are a slot that a tuner wraps; the wrapper knows the rest.
    """

    def load_adapter(self, peft_model_id: str | None = None, adapter_name: str | None = None, *args, **kwargs):
        """
        As in `transformers`, which only reports what is wrong with an adapter's file (and, of further adapters, also
        what is not).

        Raises:
            AdapterError: the file is damaged, or tensors are missing, unknown, of another shape or not finite. After
                any error the adapter is not kept.
        """
        name = adapter_name or "default"
        known = name in getattr(self, "peft_config", {})
        try:
            with _silenced("transformers.integrations.peft"):
                loading_info = super().load_adapter(peft_model_id, adapter_name, *args, **kwargs)
            own = self._adapter_tensors(name)
            for what, keys in (
                ("lacks", [key for key in loading_info.missing_keys if key in own]),
                ("has the unknown tensors", loading_info.unexpected_keys),
                ("is not finite in", [key for key, tensor in own.items() if not tensor.isfinite().all()]),
            ):
                if keys:
                    raise AdapterError(f"the adapter {peft_model_id} {what} {', '.join(sorted(keys))}")
        except Exception as error:
            if not known and name in getattr(self, "peft_config", {}):
                self.delete_adapter(name)
            if isinstance(error, SafetensorError):
                raise AdapterError(f"the adapter {peft_model_id} is damaged ({error})") from error
            if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" in str(error):  # the report is silenced
                raise AdapterError(
                    f"the adapter {peft_model_id} has tensors of other shapes than the model"
                ) from error
            raise
        self._after_switching_adapters()
        return loading_info

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """As in `transformers`."""
        super().set_adapter(adapter_name)
        self._after_switching_adapters()

    def enable_adapters(self) -> None:
        """As in `transformers`."""
        super().enable_adapters()
        self._after_switching_adapters()

    def disable_adapters(self) -> None:
        """As in `transformers`."""
        super().disable_adapters()
        self._after_switching_adapters()

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """As in `transformers`."""
        super().delete_adapter(adapter_names)
        self._after_switching_adapters()

    def _adapter_tensors(self, name: str) -> dict[str, torch.Tensor]:
        prefixes = tuple(
            f"{path}.{attribute}.{name}."
            for path, module in self.named_modules()
            if isinstance(module, BaseTunerLayer)
            for attribute in (*module.adapter_layer_names, *module.other_param_names)
        )
        return {key: tensor for key, tensor in self.state_dict().items() if f"{key}.".startswith(prefixes)}

    def _after_switching_adapters(self):
        tell = getattr(self.class_embeddings, "after_switching", None)  # of a tuner's layer around the slot
        if tell is not None:
            tell(self)


@contextlib.contextmanager
def _silenced(name: str):
    """No warnings of a logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
