"""An exported model beside PyTorch's: size of the file, time of an image on one thread, and how far they agree.

    pip install 'ssprompt-hf[export]'
    python benchmarks/export.py --adapter out/demo/adapter --images photos --calibration_images photos

int8 is onnxruntime's own quantisation: of the weights ("dynamic"), and of weights and activations, whose ranges are
taken from the calibration images ("static"). Agreement is the share of pixels with the class that PyTorch gives, at
the size that the model sees; the time is the processor's.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from ssprompt_hf import SSPromptModel
from ssprompt_hf.data.image_inputs import image_sources, open_image
from ssprompt_hf.exporters import export_model
from ssprompt_hf.exporters.merged_model import MergedModel
from ssprompt_hf.plotting.tables import format_table


def pixel_values(model: SSPromptModel, folder: str, count: int) -> list[np.ndarray]:
    """float32 `(1, 3, H, W)`, 0 to 255, of some images of a folder, resized as the model wants them."""
    sources = image_sources(folder)[0]
    found = []
    for source in sources[:: max(1, len(sources) // count)][:count]:
        image = open_image(source)
        height, width = model.image_processor.resized_size((image.height, image.width))
        pixels = np.asarray(image.resize((width, height), 3), np.float32)
        found.append(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
    return found


class Calibration(CalibrationDataReader):
    """Images, one by one."""

    def __init__(self, images: list[np.ndarray]):
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"pixel_values": image}


def onnx_runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    return lambda image: session.run(None, {"pixel_values": image})[0]


def main(arguments: list[str] | None = None) -> None:
    """Prints a table: one row a form of the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--images", required=True, help="folder of photographs")
    parser.add_argument("--calibration_images", help="for int8 (default: the same)")
    parser.add_argument("--num_images", type=int, default=8)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = SSPromptModel.from_pretrained(adapter=options.adapter)
    images = pixel_values(model, options.images, options.num_images)
    calibration = pixel_values(model, options.calibration_images or options.images, 2 * options.num_images)
    with TemporaryDirectory() as folder:
        path = Path(folder)
        export_model(model, path / "float.onnx")
        quantize_dynamic(path / "float.onnx", path / "dynamic.onnx", per_channel=True)
        settings = {"quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QUInt8}
        settings |= {"weight_type": QuantType.QInt8, "op_types_to_quantize": ["Conv"]}
        quantize_static(path / "float.onnx", path / "static.onnx", Calibration(calibration), **settings)
        module = MergedModel(model.merge().eval(), model.image_processor, None, False).eval()

        @torch.no_grad()
        def eager(image: np.ndarray) -> np.ndarray:
            return module(torch.from_numpy(image)).numpy()

        forms = {"PyTorch": (eager, sum(p.numel() * p.element_size() for p in module.parameters()))}
        names = {"float": "ONNX, float32", "dynamic": "ONNX, int8 dynamic", "static": "ONNX, int8 static (Conv)"}
        for stem, name in names.items():
            file = path / f"{stem}.onnx"
            forms[name] = (onnx_runner(file), file.stat().st_size)
        rows, wanted = [], [eager(image) for image in images]
        for name, (run, size) in forms.items():
            start = time.process_time()
            found = [run(image) for image in images]
            seconds = (time.process_time() - start) / len(images)
            shares = [(one.argmax(1) == other.argmax(1)).mean() for one, other in zip(found, wanted)]
            difference = max(np.abs(one - other).max() for one, other in zip(found, wanted))
            agreement = f"{np.mean(shares):.3%}, at least {min(shares):.3%}"
            rows.append([name, f"{size / 1e6:.1f}", f"{seconds:.3f}", agreement, f"{difference:.1e}"])
    print(format_table(["form", "MB", "seconds an image", "pixels that agree", "largest difference"], rows))


if __name__ == "__main__":
    main()
