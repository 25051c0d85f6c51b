"""Instance and panoptic scores as `evaluate` metrics."""

import inspect
from typing import Any

import datasets
import evaluate

from .cityscapes_ap import CityscapesScores
from .coco_ap import CocoScores
from .panoptic_quality import PanopticScores
from .streaming import ImageRecords


class _Metric(ImageRecords, evaluate.Metric):
    """`ImageRecords` with the name, description and further arguments of `evaluate.Metric`."""

    def __init__(self, *args: Any, **kwargs: Any):
        names = set(inspect.signature(evaluate.Metric.__init__).parameters) - {"num_process", "process_id"}
        general = {name: kwargs.pop(name) for name in names & set(kwargs)}
        super().__init__(*args, **kwargs)
        evaluate.Metric.__init__(self, num_process=self.num_process, process_id=self.process_id, **general)

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
        features = {"predictions": {"segmentation": image}, "references": {"label": image, "instance": image}}
        description = type(self).__mro__[1].__doc__
        return evaluate.MetricInfo(
            description=description.split(".")[0].strip() + ".",
            citation="",
            inputs_description=description,
            features=datasets.Features(features),
        )

    def _build_data_dir(self) -> str:
        return ""  # the base class would make a folder for pictures that this metric never stores


class CocoAP(CocoScores, _Metric):
    """`CocoScores` as an `evaluate` metric; takes the arguments of both."""


class CityscapesAP(CityscapesScores, _Metric):
    """`CityscapesScores` as an `evaluate` metric; takes the arguments of both."""


class PanopticQuality(PanopticScores, _Metric):
    """`PanopticScores` as an `evaluate` metric; takes the arguments of both."""
