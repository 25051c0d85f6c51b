"""Class names and words of CLIPSeg: the embeddings are those of `CLIPSegProcessor` and transformers' model."""

import re

import pytest
import torch
from tiny_clipseg import CLASS_NAMES, PHRASES, images, phrase, theirs, tiny_clipseg, tokenizer

from ssprompt_hf.errors import AdapterError, SSPromptError


def embedding(model, text: str) -> torch.Tensor:
    """`(1, projection_dim)` of transformers' model."""
    return theirs(model).get_conditional_embeddings(1, **phrase(text))


def test_class_embeddings_are_those_of_each_name_alone():
    model = tiny_clipseg()
    assert torch.equal(model.class_embeddings.weight, torch.cat([embedding(model, text) for text in PHRASES]))
    assert not model.class_embeddings.weight.requires_grad
    assert model.config.class_names == CLASS_NAMES and model.config.thing_class_ids == [0]
    assert model.config.id2label[2] == "traffic_light"
    assert torch.equal(model.encode_class_names(CLASS_NAMES, tokenizer()), model.class_embeddings.weight)
    assert model.prompt_vectors(model.class_embeddings.weight) is model.class_embeddings.weight


def test_names_are_read_as_phrases_in_a_template():
    model = tiny_clipseg(class_names=["traffic_light", "wall-other-merged"])
    plain = tiny_clipseg(class_names=["traffic light", "wall"])
    assert torch.equal(model.class_embeddings.weight, plain.class_embeddings.weight)
    assert model.class_template == "{}"
    model.class_template = "a {}."
    model.set_class_names(["traffic_light"], tokenizer())
    assert torch.equal(model.class_embeddings.weight, embedding(model, "a traffic light."))


def test_words_become_the_embedding_of_the_same_text():
    model = tiny_clipseg()
    vocabulary = model.word_embeddings()
    assert vocabulary.weight.shape == (514, 16) and model.text_width == 16 and model.max_text_tokens == 40
    for text in PHRASES:
        ids = phrase(text)["input_ids"]
        ends = torch.tensor([ids.shape[1] - 1])
        with torch.no_grad():
            words = vocabulary(ids)
            assert torch.equal(model.encode_words(words, ends), embedding(model, text))
            # what follows the end is not looked at
            longer = torch.cat([words, torch.full((1, 3, 16), 100.0)], dim=1)
            torch.testing.assert_close(model.encode_words(longer, ends), embedding(model, text))


def test_words_of_several_classes_have_gradients():
    model = tiny_clipseg().double().requires_grad_(False)
    ids = [phrase(text)["input_ids"][0] for text in PHRASES]
    ends = torch.tensor([len(tokens) - 1 for tokens in ids])
    words = model.word_embeddings()(torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)).requires_grad_()
    embeddings = model.encode_words(words, ends)
    torch.testing.assert_close(embeddings, model.class_embeddings.weight, rtol=1e-4, atol=1e-4)
    assert embeddings.dtype == torch.float64
    embeddings.square().sum().backward()
    after = torch.arange(words.shape[1]) > ends[:, None]
    assert not words.grad[after].any() and words.grad.abs().sum(-1)[~after].all()
    direction = torch.randn(words.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        up, down = (model.encode_words(words + step * direction, ends).square().sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close((words.grad * direction).sum(), (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


def test_words_of_a_model_in_half_precision_are_float32():
    model = tiny_clipseg().bfloat16()
    words = model.word_embeddings()(phrase("car")["input_ids"])
    assert model.encode_words(words, torch.tensor([4])).dtype == torch.float32


def test_without_text_encoder_classes_stay_and_nothing_new_is_named():
    model, whole = tiny_clipseg(), tiny_clipseg()
    model.drop_text_encoder()
    assert not any(".text_" in name for name in model.state_dict())
    assert model.word_embeddings() is None and not model.config.has_text_encoder
    with torch.no_grad():
        assert torch.equal(model(pixel_values=images(1)).logits, whole(pixel_values=images(1)).logits)
    for call in (
        lambda: model.set_class_names(["car"], tokenizer()),
        lambda: model.encode_class_names(["car"], tokenizer()),
        lambda: model.encode_words(torch.zeros(1, 4, 16), torch.tensor([3])),
        lambda: model(pixel_values=images(1), **phrase("car")),
    ):
        with pytest.raises(AdapterError, match=r"no text encoder \(any more\).*prompt_encoders=\('text',\)"):
            call()
    assert model.max_text_tokens == 40 and model.text_width == 16
    optional = {name for name in whole.state_dict() if any(re.search(part, name) for part in whole.optional_parts)}
    assert optional == set(whole.state_dict()) - set(model.state_dict())


def test_texts_that_are_too_long():
    model = tiny_clipseg(class_names=None)
    with pytest.raises(SSPromptError, match="has 52 tokens, but CLIPSeg reads at most 40"):
        model.set_class_names(["x" * 50], tokenizer())
    assert model.class_embeddings.weight is None and model.config.class_names is None and model.num_classes() == 0
    with pytest.raises(SSPromptError, match="41 tokens were given; CLIPSeg reads 40"):
        model.encode_words(torch.zeros(1, 41, 16), torch.tensor([3]))
