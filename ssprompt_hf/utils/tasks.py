"""The segmentation tasks that every room knows by the same names."""

TASKS = ("semantic", "instance", "panoptic")
"""What is predicted, learned and scored: `semantic`, one class for each pixel; `instance`, one mask for each object of
a thing class; `panoptic`, both, in one map without overlaps (Kirillov et al., "Panoptic Segmentation", 2019)."""
