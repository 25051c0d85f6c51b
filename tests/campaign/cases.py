"""The kinds of cases of a campaign: each takes a source of chance and a folder, does damage and uses the library."""

from adapter_cases import adapter_config, adapter_weights, base_folder, overwritten_adapter
from data_cases import hub_table, images, label_formats, labels
from hub_cases import hub, hub_dataset
from training_cases import damaged_checkpoint, killed_training

CASES = {
    case.__name__: case
    for case in (
        adapter_weights,
        adapter_config,
        overwritten_adapter,
        base_folder,
        killed_training,
        damaged_checkpoint,
        images,
        labels,
        label_formats,
        hub_table,
        hub,
        hub_dataset,
    )
}
