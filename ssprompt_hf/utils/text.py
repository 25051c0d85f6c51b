"""Text that came with data, made fit to be printed."""

import unicodedata
from typing import Any

# Control characters (terminal escapes, newlines), invisible ones that change the direction of what follows, separators
# of lines and paragraphs, and halves of surrogate pairs.
UNPRINTABLE = ("Cc", "Cf", "Zl", "Zp", "Cs")


def printable(value: Any) -> str:
    """
    `value` as text on one line. Characters that a terminal would act upon are written as escapes, as in `repr`: a name
    in somebody's file can neither forge lines nor change the screen.
    """
    return "".join(
        character if unicodedata.category(character) not in UNPRINTABLE else ascii(character)[1:-1]
        for character in str(value)
    )
