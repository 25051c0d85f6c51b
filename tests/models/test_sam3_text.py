"""Class names and words of SAM 3: the tokens are those of `Sam3Processor` and `get_text_features`."""

import pytest
import torch
from tiny_sam3 import CLASS_NAMES, images, phrase, theirs, tiny_sam3, tokenizer
from transformers import Sam3Processor

from ssprompt_hf.errors import AdapterError, SSPromptError
from ssprompt_hf.models.sam3 import Sam3ImageProcessorPil
from ssprompt_hf.models.sam3.text import text_length

KINDS = ("sam3", "sam3_lite_text")
PHRASES = [name.replace("_", " ") for name in CLASS_NAMES]


@torch.no_grad()
def features(model, text: str) -> torch.Tensor:
    """`(tokens, D)` of transformers' model."""
    inputs = phrase(text)
    states = theirs(model).get_text_features(**inputs, return_dict=True).pooler_output
    return states[0, inputs["attention_mask"][0].bool()]


@pytest.mark.parametrize("kind", KINDS)
def test_class_tokens_are_those_of_each_name_alone(kind):
    model = tiny_sam3(kind)
    tokens = model.class_tokens.weight
    longest = max(len(features(model, text)) for text in PHRASES)
    assert tokens.shape == (4, longest, 16) and not tokens.requires_grad
    for row, text in zip(tokens, PHRASES):
        expected = features(model, text)
        assert torch.equal(row[: len(expected)], expected)
        assert not row[len(expected) :].any() and expected.any(-1).all()
    assert model.config.class_names == CLASS_NAMES and model.config.thing_class_ids == [0]
    assert model.config.id2label[2] == "traffic_light" and model.config.class_tokens_shape == [4, longest]


def test_the_processor_of_transformers_makes_the_same_inputs():
    processor = Sam3Processor(image_processor=Sam3ImageProcessorPil(), tokenizer=tokenizer())
    inputs = processor(text="sky", return_tensors="pt")
    assert {name: value.tolist() for name, value in inputs.items()} == {
        name: value.tolist() for name, value in phrase("sky").items()
    }
    model = tiny_sam3()
    with torch.no_grad():
        states = model.get_text_features(**inputs).pooler_output[0]
    assert torch.equal(model.class_tokens.weight[1, :5], states[:5])  # start, s, k, y, end


def test_names_are_read_as_phrases():
    model = tiny_sam3(class_names=["traffic_light", "wall-other-merged"])
    plain = tiny_sam3(class_names=["traffic light", "wall"])
    assert torch.equal(model.class_tokens.weight, plain.class_tokens.weight)
    assert model.class_template == "{}"


@pytest.mark.parametrize("kind", KINDS)
def test_words_become_the_tokens_of_the_same_text(kind):
    model = tiny_sam3(kind)
    vocabulary = model.word_embeddings()
    assert vocabulary.weight.shape == (514, 16) and model.text_width == 16 and model.max_text_tokens == 32
    for text in PHRASES:
        inputs = phrase(text)
        expected, ends = features(model, text), inputs["attention_mask"].sum(1) - 1
        with torch.no_grad():
            words = vocabulary(inputs["input_ids"])
            whole = model.encode_words(words, ends)
            assert torch.equal(whole[0, : len(expected)], expected) and not whole[0, len(expected) :].any()
            # what follows the end is not looked at, and need not be there
            words[:, len(expected) :] = 100
            short = model.encode_words(words[:, : len(expected) + 1], ends)
        assert short.shape == (1, len(expected) + 1, 16) and not short[0, -1].any()
        torch.testing.assert_close(short[0, :-1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_several_classes_have_gradients(kind):
    model = tiny_sam3(kind).double().requires_grad_(False)
    lengths = [len(features(model, text)) for text in PHRASES]
    ids = torch.cat([phrase(text)["input_ids"] for text in PHRASES])[:, : max(lengths)]
    words = model.word_embeddings()(ids).requires_grad_()
    ends = torch.tensor(lengths) - 1
    tokens = model.encode_words(words, ends)
    torch.testing.assert_close(tokens, model.class_tokens.weight, rtol=1e-4, atol=1e-5)
    assert tokens.dtype == torch.float64
    tokens.square().sum().backward()
    assert words.grad.abs().sum(-1)[ids == ids[0, 0]].all()
    after = torch.arange(max(lengths)) > ends[:, None]
    assert not words.grad[after].any()
    direction = torch.randn(words.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        up, down = (model.encode_words(words + step * direction, ends).square().sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close((words.grad * direction).sum(), (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


def test_words_of_a_model_in_half_precision_are_float32():
    model = tiny_sam3().bfloat16()
    words = model.word_embeddings()(phrase("car")["input_ids"])
    assert model.encode_words(words, torch.tensor([4])).dtype == torch.float32


def test_vectors_to_compare_prompts_with_words():
    model = tiny_sam3()
    vectors = model.prompt_vectors(model.class_tokens.weight)
    expected = torch.stack([features(model, text).mean(0) for text in PHRASES])
    torch.testing.assert_close(vectors, expected)
    assert torch.equal(model.encode_class_names(CLASS_NAMES, tokenizer()), vectors)


def test_without_text_encoder_classes_stay_and_nothing_new_is_named():
    model, whole = tiny_sam3(), tiny_sam3()
    model.drop_text_encoder()
    assert not any(name.startswith("text_") for name in model.state_dict())
    assert model.word_embeddings() is None and not model.config.has_text_encoder
    with torch.no_grad():
        assert torch.equal(model(images(1)).class_maps, whole(images(1)).class_maps)
    for call in (
        lambda: model.set_class_names(["car"], tokenizer()),
        lambda: model.encode_class_names(["car"], tokenizer()),
        lambda: model.encode_words(torch.zeros(1, 4, 16), torch.tensor([3])),
        lambda: model(pixel_values=images(1), **phrase("car")),
        lambda: model(images(1), None, *phrase("car").values()),
    ):
        with pytest.raises(AdapterError, match=r"no text encoder \(any more\).*prompt_encoders=\('text',\)"):
            call()
    assert model.max_text_tokens == 32 and model.text_width == 16
    assert all(any(map(name.startswith, ("text_encoder.", "text_projection."))) for name in optional(whole))
    assert len(optional(whole)) == sum(name.startswith("text_") for name in whole.state_dict())


def optional(model) -> list[str]:
    import re

    return [name for name in model.state_dict() if any(re.search(part, name) for part in model.optional_parts)]


def test_texts_that_are_too_long():
    model = tiny_sam3(class_names=None)
    with pytest.raises(SSPromptError, match="has 42 tokens, but SAM 3 reads at most 32"):
        model.set_class_names(["x" * 40], tokenizer())
    assert model.class_tokens.weight is None and model.config.class_names is None and model.num_classes() == 0
    with pytest.raises(SSPromptError, match="33 tokens were given; SAM 3 reads 32"):
        model.encode_words(torch.zeros(1, 33, 16), torch.tensor([3]))


def test_lengths_of_texts():
    model = tiny_sam3()
    model.config.text_config.max_position_embeddings = 20
    assert text_length(model.config.text_config) == 20
    assert text_length(tiny_sam3("sam3_lite_text").config.text_config) == 32  # it has 16 positions and stretches them
