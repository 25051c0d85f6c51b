"""The paper's own numbers, as far as a source could be checked; what could not is left out, and shown as a dash.

Known are the numbers of Table 7; and that the paper compares zero-shot, CoOp, LOCN and SSPrompt on six data sets, with
two base models and in three tasks, but not how accurate they were. Further numbers are to be added here from the paper
itself, under the titles of the rows and columns in `tables.py`.
"""

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
