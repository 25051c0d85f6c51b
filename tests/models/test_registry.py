"""Names of base models."""

import pytest

from ssprompt_hf.errors import UnknownNameError
from ssprompt_hf.models.registry import get_base_model


def test_unknown_base_model_lists_names():
    with pytest.raises(UnknownNameError, match="is no base model; the names are seem-lite, seem-nano, seem-t"):
        get_base_model("seem-x")
