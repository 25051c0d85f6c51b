"""Names of official models in `from_pretrained`."""

import os
from typing import Any

from ..model_files import ACCESS, access_of
from ..registry import family


class ResolvesPretrainedNames:
    """`from_pretrained` as in transformers, and besides by names such as `"seem-t"`: their official checkpoint is
    downloaded and converted on first use. See `models/seem/pretrained.py`, also for errors."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        if pretrained_model_name_or_path is None:  # the weights come as `state_dict`
            return super().from_pretrained(None, *args, **kwargs)
        path = family("seem").resolve(pretrained_model_name_or_path, **access_of(kwargs))
        if path != os.fspath(pretrained_model_name_or_path):
            # The folder is on this machine: how to reach the Hub has been used up.
            kwargs = {name: value for name, value in kwargs.items() if name not in ACCESS}
        return super().from_pretrained(path, *args, **kwargs)
