"""Model cards of adapters."""

from ssprompt_hf.adapters.card import metrics_table, render_adapter_card
from ssprompt_hf.tuners import CoOpConfig, SSPromptConfig

CARD = """---
base_model: user/seem
library_name: peft
pipeline_tag: image-segmentation
tags:
- ssprompt-hf
- ssprompt
- panoptic-segmentation
- prompt-learning
---

# SSPrompt adapter for street-scenes/fog

Learned spatial and semantic prompts for the frozen promptable segmentation model `user/seem`: 12,345 numbers, 68 kB.
The method is SSPrompt, from "Learning to Prompt Segment Anything Models"; nothing in the base model was changed.

## Use

```python
from ssprompt_hf import SSPromptModel

model = SSPromptModel.from_pretrained("user/seem", adapter="user/fog")
result = model.predict("image.jpg")
result.overlay().save("overlay.png")
```

No text encoder is needed: the embeddings of the classes are in the adapter.

With PEFT alone, `ssprompt_hf` has to be imported first, which makes method and base model known:

```python
import ssprompt_hf
from peft import AutoPeftModel

model = AutoPeftModel.from_pretrained("user/fog", import_allowlist=["ssprompt_hf"])
```

## Results

|  | mean_iou | accuracy |
| --- | --- | --- |
| zero-shot | 40.12 | 80.00 |
| adapted | 55.56 |  |

| metric | value |
| --- | --- |
| images | 100 |
| loss | 0.1235 |

## Training

- task: panoptic
- dataset: street-scenes/fog
- shots: 16
- seed: 0
- shorter image side: 512 pixels
- spatial prompts: embeddings learned
- semantic prompts: embeddings and weights learned
- spatial source: point grid
- weights: between 0 and 1
- steps: 200
- learning rate: 0.03
- loss: mixed
- kept share: 0.3712
- 2 training images, listed in `adapter_config.json`

## Classes

| id | name | kind | colour |
| --- | --- | --- | --- |
| 0 | road | stuff | #804080 |
| 1 | car \\| van | thing | #00008e |

## Compatibility

The adapter fits the base model with fingerprint `12-34`. It was made with peft 0.21.
"""


def test_the_whole_card():
    config = SSPromptConfig(
        base_model_name_or_path="user/seem",
        task="panoptic",
        class_names=["road", "car | van"],
        thing_class_ids=[1],
        colors=[[128, 64, 128], [0, 0, 142]],
        image_size=512,
        dataset="street-scenes/fog",
        shots=16,
        seed=0,
        chosen_images=["a", "b"],
        training={"steps": 200, "learning_rate": 0.03, "loss": "mixed", "kept_share": 0.3712},
        spatial_weight=False,
        spatial_source="point_grid",
        metrics={
            "zero-shot": {"mean_iou": 40.123, "accuracy": 80.0, "per_class": [1, 2]},
            "adapted": {"mean_iou": 55.557},
            "images": 100,
            "loss": 0.123456,
        },
        base_model_fingerprint="12-34",
        versions={"peft": "0.21"},
    )
    assert render_adapter_card(config, 12345, 67890, "user/fog") == CARD
    config.spatial_source, config.deep_prompts = "object_queries", "last"
    config.prompts_per_class = 2
    card = render_adapter_card(config, 12345, 67890)
    assert "\n- deep prompts: last\n" in card and "\n- prompts per class: 2\n" in card


def test_a_card_without_facts():
    card = render_adapter_card(SSPromptConfig(), 1, 1)
    assert "Not evaluated yet." in card and "base_model:" not in card and "$" not in card
    assert metrics_table({"classes": [1.0]}) == "Not evaluated yet."


def test_cards_of_other_methods():
    card = render_adapter_card(CoOpConfig(class_names=["car"]), parameters=8192, num_bytes=34_000)
    assert "# CoOp adapter" in card and "- coop\n" in card
    assert "Learned context words of the class names for the frozen" in card
    assert 'The method is CoOp, from "Learning to Prompt for Vision-Language Models"' in card
    half = SSPromptConfig(semantic_embedding=False, semantic_weight=False)
    assert "# SpaPrompt adapter" in render_adapter_card(half, parameters=1, num_bytes=1)


def test_names_stay_in_their_row():
    names = ["road\n| 7 | forged", "a|b", "# title"]
    card = render_adapter_card(SSPromptConfig(class_names=names, dataset="fog\n# forged"), 1, 1)
    rows = [line for line in card.split("\n") if line.startswith("| ")]
    assert [row for row in rows if "forged" in row] == ["| 0 | road\\n\\| 7 \\| forged |"]
    assert "| 1 | a\\|b |" in rows and not any(line.startswith("# forged") for line in card.split("\n"))
