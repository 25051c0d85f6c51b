"""The text encoder against the official one, and the exactness of what it saves."""

import json
import string

import pytest
import torch
from conftest import reference_models
from safetensors.torch import load_file

from ssprompt_hf.models.seem.configuration_seem import SeemTextConfig
from ssprompt_hf.models.seem.prompt_templates import PROMPT_TEMPLATES
from ssprompt_hf.models.seem.text_encoder import (
    BACKGROUND_CLASS,
    SeemTextModel,
    clean_class_name,
    fill_templates,
    pack_prefix_trees,
)


class CharacterTokenizer:
    """Characters as tokens between a start and an end token; enough of a tokenizer for the ensemble."""

    vocabulary = {character: index for index, character in enumerate(string.printable, start=1)}
    start, end = len(vocabulary) + 1, len(vocabulary) + 2

    def __call__(self, sentences, truncation=True, max_length=77):
        ids = [[self.vocabulary[c] for c in sentence][: max_length - 2] for sentence in sentences]
        return {"input_ids": [[self.start, *row, self.end] for row in ids]}


def tiny_text_model(attn_implementation="sdpa", dtype=torch.float64) -> SeemTextModel:
    torch.manual_seed(0)
    config = SeemTextConfig(
        vocab_size=CharacterTokenizer.end + 1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        attn_implementation=attn_implementation,
    )
    model = SeemTextModel(config, projection_dim=12).to(dtype).eval()
    for parameter in model.parameters():  # the initial weights are too small to tell tokens apart
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def official_text_model(folder) -> SeemTextModel:
    """The text encoder of a reference model, filled with the reference's random weights."""
    namespace = {"__name__": "random_checkpoint"}
    exec((folder.parent / "random_checkpoint.py").read_text(), namespace)
    spec = json.loads((folder / "spec.json").read_text())
    weights = namespace["random_state_dict"](json.loads((folder / "layout.json").read_text()), spec["seed"])
    prefix = "sem_seg_head.predictor.lang_encoder."
    weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    text, width = spec["hyperparameters"]["text"], spec["hyperparameters"]["text"]["width"]
    names = {
        "token_embedding": "embeddings.token_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final": "final_layer_norm",
        "resblocks": "encoder.layers",
        "attn": "self_attn",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "c_fc": "fc1",
        "c_proj": "fc2",
    }
    state = {"projection.weight": weights["lang_proj"].T}
    for name, value in weights.items():
        if not name.startswith("lang_encoder."):
            continue
        parts = [names.get(part, part) for part in name.split(".")[1:]]
        name = "text_encoder." + ".".join(parts)
        if "in_proj" in name:
            for part, piece in zip("qkv", value.split(width)):
                state[name.replace("in_proj_", f"{part}_proj.")] = piece
        else:
            state[name] = value
    config = SeemTextConfig(
        vocab_size=weights["lang_encoder.token_embedding.weight"].shape[0],
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=text["layers"],
        num_attention_heads=text["heads"],
        max_position_embeddings=text["context_length"],
    )
    model = SeemTextModel(config, spec["hyperparameters"]["projection_dim"])
    model.load_state_dict(state)
    return model.double().eval()


@pytest.mark.parametrize("folder", reference_models(), ids=lambda folder: folder.name)
def test_equals_official(folder):
    from transformers import AutoTokenizer

    model = official_text_model(folder)
    inputs, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    ids, mask = inputs["text.input_ids"], inputs["text.attention_mask"]

    def assert_close(actual, name, cut=slice(None)):
        reference = expected[name][:, cut] if cut != slice(None) else expected[name]
        torch.testing.assert_close(actual.float(), reference, rtol=0, atol=1e-5 * reference.abs().max().item())

    with torch.no_grad():
        whole = model(ids, mask, truncate=False)
        short = model(ids, mask)
    assert_close(whole.token_embeddings, "text.token_embeddings")
    assert_close(short.token_embeddings, "text.token_embeddings", slice(short.token_embeddings.shape[1]))
    assert_close(short.text_embeds, "text.class_embeddings")
    assert short.token_embeddings.shape[1] == mask.sum(dim=1).max()

    classes = json.loads((folder / "spec.json").read_text())["classes"]
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "tokenizer")
    ensemble = model.encode_class_names(classes, tokenizer, add_background=True)
    assert_close(ensemble, "text.class_ensemble")
    assert torch.equal(ensemble, model.encode_class_names([*classes, BACKGROUND_CLASS], tokenizer))


def test_templates_are_the_official_ones(reference_dir):
    assert list(PROMPT_TEMPLATES) == json.loads((reference_dir / "prompt_templates.json").read_text())


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_ensemble_equals_plain_computation(attn_implementation):
    model, tokenizer = tiny_text_model(attn_implementation), CharacterTokenizer()
    names = ["road", "traffic light", "traffic sign", "wall-other-merged"]
    rows = []
    for name in ["road", "traffic light", "traffic sign", "wall", "background"]:
        ids = [tokenizer([template.format(name)])["input_ids"][0] for template in PROMPT_TEMPLATES]
        padded = torch.tensor([row + [tokenizer.end] * (77 - len(row)) for row in ids])
        embeddings = model(padded, truncate=False).text_embeds
        mean = (embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-7)).mean(dim=0)
        rows.append(mean / mean.norm())
    expected = torch.stack(rows)

    actual = model.encode_class_names(names, tokenizer, add_background=True, batch_size=3)
    # The eager function takes its softmax in float32.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-8 if attn_implementation == "eager" else 1e-12)
    token_ids = [tuple(ids) for ids in tokenizer(fill_templates(names[:2]))["input_ids"]]
    with torch.no_grad():
        torch.testing.assert_close(
            model._encode_padded(token_ids, 2), model._encode_packed(token_ids, 2), rtol=0, atol=1e-7
        )
    assert model.encode_class_names(names, tokenizer, templates=("{}",)).shape == (4, 12)


def test_padding_does_not_matter():
    model, tokenizer = tiny_text_model(), CharacterTokenizer()
    rows = tokenizer(["the sky", "a red car"])["input_ids"]
    longest = max(map(len, rows))
    outputs = [
        model(torch.tensor([row + [pad] * (length - len(row)) for row in rows]))
        for length, pad in ((longest, 0), (77, 0), (77, tokenizer.end))
    ]
    for output in outputs[1:]:
        assert output.token_embeddings.shape[1] == longest
        assert torch.equal(output.attention_mask, outputs[0].attention_mask)
        torch.testing.assert_close(output.text_embeds, outputs[0].text_embeds, rtol=0, atol=1e-12)
    assert outputs[0].attention_mask.sum(dim=1).tolist() == [len(row) for row in rows]


def test_inputs_embeds_and_gradient():
    model, tokenizer = tiny_text_model(), CharacterTokenizer()
    ids = torch.tensor(tokenizer(["a road"])["input_ids"])
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    output = model(inputs_embeds=embeds, end_positions=torch.tensor([ids.shape[1] - 1]))
    assert torch.equal(output.text_embeds, model(ids).text_embeds)
    output.text_embeds.sum().backward()
    assert (embeds.grad.abs().amax(dim=-1) > 0).all()


def test_prefix_trees():
    sequences = [(1, 2, 3), (1, 2, 4, 5), (1, 2), (6,), (1, 2, 3)]
    (tree,) = pack_prefix_trees(sequences, max_tokens=10)
    assert len(tree.token_ids) == 6
    for index, node in tree.ends.items():
        ancestors = tree.visible()[node].nonzero().flatten().tolist()
        assert tuple(tree.token_ids[ancestor] for ancestor in ancestors) == sequences[index]
        assert [tree.depths[ancestor] for ancestor in ancestors] == list(range(len(sequences[index])))
    assert sum(len(tree.ends) for tree in pack_prefix_trees(sequences, max_tokens=4)) == len(sequences)
    assert all(len(tree.token_ids) <= 4 for tree in pack_prefix_trees(sequences, max_tokens=4))


def test_half_precision():
    model, tokenizer = tiny_text_model(dtype=torch.bfloat16), CharacterTokenizer()
    embeddings = model.encode_class_names(["road", "sky"], tokenizer)
    assert embeddings.dtype == torch.bfloat16 and embeddings.isfinite().all()


def test_names_and_errors():
    assert clean_class_name("wall-other-merged") == "wall" and clean_class_name("tree-merged") == "tree"
    model, tokenizer = tiny_text_model(), CharacterTokenizer()
    with pytest.raises(ValueError, match="non-empty list"):
        model.encode_class_names([], tokenizer)
    with pytest.raises(ValueError, match="non-empty string, got ' '"):
        model.encode_class_names(["road", " "], tokenizer)
    with pytest.raises(ValueError, match="exactly one"):
        model.encode_class_names(["road"], tokenizer, templates=("a photo",))
    with pytest.raises(ValueError, match="end_positions"):
        model(inputs_embeds=torch.zeros(1, 3, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match="either"):
        model()
    with pytest.raises(ValueError, match="77 positions"):
        model(torch.ones(1, 90, dtype=torch.long), truncate=False)
