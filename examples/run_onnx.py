"""A photograph to a class map, without this package: python examples/run_onnx.py out/model.onnx street.jpg"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
image = Image.open(sys.argv[2]).convert("RGB")
least, largest = (json.loads(metadata[name]) for name in ("image_size", "max_image_size"))  # of the shorter side
shorter = min(max(int(min(image.size) * json.loads(metadata["enlargement"])), least), largest)
scale = shorter / min(image.size)
resized = image.resize([int(side * scale + 1e-6) for side in image.size], Image.Resampling.BICUBIC)
pixel_values = np.asarray(resized, np.float32).transpose(2, 0, 1)[None]
class_map = session.run(None, {"pixel_values": pixel_values})[0][0].argmax(0).astype(np.uint8)
names = json.loads(metadata["class_names"])
print({names[index]: f"{(class_map == index).mean():.1%}" for index in np.unique(class_map)})
Image.fromarray(class_map).resize(image.size, Image.Resampling.NEAREST).save("class_map.png")
