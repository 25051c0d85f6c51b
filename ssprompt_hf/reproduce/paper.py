"""The paper's own numbers, as far as a source could be checked; what could not is left out, and shown as a dash."""

PAPER: dict[str, dict[tuple[str, str], float]] = {
    # Table 7: training time per image and memory on ADE20K, without a feature cache.
    "7": {
        ("CoOp", "ms/image"): 87.5,
        ("LOCN", "ms/image"): 89.5,
        ("SSPrompt", "ms/image"): 56.0,
        ("CoOp", "GB"): 8.22,
        ("LOCN", "GB"): 8.22,
        ("SSPrompt", "GB"): 3.82,
    },
}
"""By table, row and column."""
