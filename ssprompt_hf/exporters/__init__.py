"""Merged models as files that run without this package: ONNX and `torch.export`.

Not to be taken for `segmentation/export.py`, which writes predictions in the forms that Cityscapes' and COCO's scripts
read.
"""

from .export import export_model

__all__ = ["export_model"]
