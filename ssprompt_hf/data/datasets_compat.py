"""Everything taken from the `datasets` library beyond its public names."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


def table_fingerprint(dataset: "datasets.Dataset") -> str:
    """Hexadecimal text that `datasets` keeps of a table: the same when opened again, another when it has changed.

    The library names this attribute in its guides, but has no public name for it. What can be had in public, a digest
    of all cells, would read every image of the table, which may be gigabytes.
    """
    return dataset._fingerprint
