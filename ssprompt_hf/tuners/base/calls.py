"""Which prompts a thread sees, so that a server can ask one model with many adapters at once."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch

from ...errors import AdapterError
from .config import PromptConfig
from .layer import OfThreads, PromptLayer


class Call(NamedTuple):
    """
    What a thread asks a model with.

    Args:
        adapter: name of the adapter; None if there is none.
        config: its configuration; None if there is none.
        zero_shot: whether the base model answers about the adapter's classes.
        class_names: of the semantic prompts in force.
        thing_class_ids: which of them are things; None if that is not known.
    """

    adapter: str | None
    config: PromptConfig | None
    zero_shot: bool
    class_names: list[str] | None
    thing_class_ids: list[int] | None

    @property
    def things(self) -> set[int]:
        """Ids of the thing classes: where class names were given without, every class is one."""
        ids = self.thing_class_ids
        return set(range(len(self.class_names or ())) if ids is None else ids)

    @property
    def _records(self) -> PromptConfig | None:
        """The adapter's configuration, if these are its classes."""
        return self.config if self.config is not None and self.config.class_names == self.class_names else None

    @property
    def image_bits(self) -> int | None:
        """As of the adapter's training images."""
        return None if self.config is None else self.config.image_bits

    @property
    def colors(self) -> list | None:
        """The adapter's colours of these classes."""
        return None if self._records is None else self._records.colors

    @property
    def label_ids(self) -> dict[str, Any]:
        """`class_ids` and `none_id` of these classes in label files, as `SegmentationResult` has them."""
        records = self._records
        if records is None or records.class_ids is None:
            return {}
        return {"class_ids": list(records.class_ids), "none_id": records.ignore_index}


class Lock:
    """A reentrant lock that copies of a model do not share."""

    def __init__(self):
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple:
        return Lock, ()


def locked(method: Callable) -> Callable:
    """A method of a tuner that changes which prompts are in force: one thread at a time."""

    @functools.wraps(method)
    def whole(self, *args, **kwargs):
        with self.lock:
            return method(self, *args, **kwargs)

    return whole


class PromptsOfThreads:
    """The part of a tuner that lets a thread see prompts of its own choice."""

    def _thread_calls(self) -> dict[int, Call]:
        return self.__dict__.setdefault("_calls", OfThreads())

    @contextmanager
    def use_adapter(self, adapter_name: str | None = None, zero_shot: bool | None = None) -> Iterator[Call]:
        """
        Let this thread see the prompts of one adapter as they are now, whichever is active, and whatever other threads
        switch, merge, disable or add meanwhile. No gradient reaches them. Within it `torch.compile` has a graph break
        at each slot.

        Args:
            adapter_name: the adapter; by default the prompts that this thread sees already.
            zero_shot: let the base model answer about the adapter's classes; by default as it is outside.

        Returns:
            the class names and settings that go with the prompts.

        Raises:
            AdapterError: there is no such adapter, or its prompts are still to come.
        """
        thread = threading.get_ident()
        with self.lock:
            layers, calls = self.prompt_layers(), self._thread_calls()
            call, prompts = self._call(layers, adapter_name, zero_shot)
            outer_call = calls.get(thread)
            outer = {layer: layer.prompts_of_calls[thread] for layer in layers if thread in layer.prompts_of_calls}
            calls[thread] = call
            for layer, prompt in prompts.items():
                layer.prompts_of_calls[thread] = prompt
        try:
            yield call
        finally:
            with self.lock:
                now = self.prompt_layers()
                for layer in {*layers, *now}:
                    layer.prompts_of_calls.pop(thread, None)
                for layer, prompt in outer.items():
                    layer.prompts_of_calls[thread] = prompt
                del calls[thread]
                if outer_call is not None:
                    calls[thread] = outer_call
                    for layer in now:  # some may have been added
                        layer.keep_for_call(thread)

    def zero_shot(self) -> AbstractContextManager[Call]:
        """The base model with its own spatial prompts and the default embeddings of the active adapter's classes, for
        this thread; see `use_adapter`."""
        return self.use_adapter(zero_shot=True)

    def _call(
        self, layers: list[PromptLayer], adapter_name: str | None, zero_shot: bool | None
    ) -> tuple[Call, dict[PromptLayer, torch.Tensor | None]]:
        if adapter_name is not None and adapter_name not in self.peft_config:
            names = ", ".join(map(repr, self.peft_config)) or "none"
            raise AdapterError(f"there is no adapter {adapter_name!r}; there are {names}")
        outer = self._thread_calls().get(threading.get_ident())
        was_zero_shot = outer is not None and outer.zero_shot
        zero_shot = was_zero_shot if zero_shot is None else zero_shot
        name = adapter_name
        if name is None:
            name = self._check_one(self.active_adapters) if outer is None else outer.adapter
        config = self.peft_config.get(name)
        if adapter_name is None and zero_shot == was_zero_shot:
            call = outer or Call(name, config, False, **self._config_classes())
            prompts = {layer: layer.weight for layer in layers}
        else:
            classes = self.base_classes()
            if config is not None and config.class_names is not None:
                classes = {"class_names": config.class_names, "thing_class_ids": config.thing_class_ids}
            call = Call(name, config, zero_shot, **classes)
            prompts = {layer: layer.prompts_of(name, zero_shot) for layer in layers}
        # Merging writes other numbers into a parameter of the base model; detached, it keeps those of now.
        return call, {layer: None if prompt is None else prompt.detach() for layer, prompt in prompts.items()}
