"""A Space to try a promptable segmentation model and adapters, as its README says.

ADAPTERS=out/demo/adapter python examples/space/app.py
"""

import os

from ssprompt_hf.studio.space import SSPromptSpace


def space() -> SSPromptSpace:
    """The page as the settings of the Space describe it."""
    adapters = [name.strip() for name in os.environ.get("ADAPTERS", "").split(",") if name.strip()]
    return SSPromptSpace(adapters, os.environ.get("BASE_MODEL"), os.environ.get("EXAMPLES"))


if __name__ == "__main__":
    space().launch()
