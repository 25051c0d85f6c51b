"""SSPrompt where a class is several token vectors, some of which are padding: `(K, L, D)`, as in SAM 3."""

import pytest
import torch
from torch import nn

from ssprompt_hf.errors import AdapterError
from ssprompt_hf.models.interface import SEMANTIC, PromptSlot
from ssprompt_hf.tuners import SSPromptConfig, SSPromptLayer

CLASSES = ["sky", "traffic light", "a very long name"]
LENGTHS, WIDTH = [1, 2, 4], 8
SHAPE = (3, 4, WIDTH)


def tokens() -> torch.Tensor:
    """`(3, 4, 8)`; what is behind the end of a class is zero."""
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for row, length in zip(z, LENGTHS):
        row[length:] = 0
    return z


PADDING = torch.tensor([[column >= length for column in range(4)] for length in LENGTHS])


class Slot(nn.Module):
    def __init__(self, num_fixed: int = 0):
        super().__init__()
        fixed = torch.ones(num_fixed, *SHAPE[1:])
        self.register_buffer("weight", torch.cat([tokens(), fixed]))


def layer(num_fixed: int = 0, **config) -> SSPromptLayer:
    slot = Slot(num_fixed)
    made = SSPromptLayer(slot, PromptSlot("classes", SEMANTIC, num_fixed=num_fixed), like=slot.weight)
    config = SSPromptConfig(class_names=CLASSES, **config)
    made.update_layer("default", config, slot.weight, tuple(slot.weight.shape))
    made.set_adapter("default")
    return made


def spread(weight: torch.Tensor) -> torch.Tensor:
    """A weight per class or per token, beside `(K, L, D)`."""
    return weight.view(*weight.shape, *[1] * (3 - weight.ndim))


@pytest.mark.parametrize("num_fixed", [0, 1])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"semantic_weight": False},
        {"init_weight": 0.123},
        {"weight_range": "free", "init_weight": 1.7},
        {"normalize_class_embeddings": True},
        {"semantic_embedding": False, "semantic_weight": False},
    ],
)
def test_untrained_prompts_are_the_default_ones_bit_for_bit(config, per_token, num_fixed):
    made = layer(num_fixed, weight_per_token=per_token, **config)
    z = made.base_layer.weight
    assert torch.equal(made.weight, z) and torch.equal(made(), z)
    if "ssprompt_weight" in made.tensor_shapes("default"):
        with torch.no_grad():  # whatever the weights, as long as e = z
            made.ssprompt_weight["default"].copy_(torch.randn_like(made.ssprompt_weight["default"]) * 5)
        assert torch.equal(made.weight, z)


@pytest.mark.parametrize(("per_token", "shape"), [(False, (3,)), (True, (3, 4))])
def test_one_weight_a_class_or_one_a_token(per_token, shape):
    torch.manual_seed(1)
    made = layer(weight_per_token=per_token, init_embeddings="noise", init_std=1.0)
    weight, e, z = made.ssprompt_weight["default"], made.ssprompt_embedding["default"], tokens()
    assert weight.shape == shape and made.prompt_weights("default").shape == shape
    with torch.no_grad():
        weight.copy_(torch.randn(shape))
    w = spread(made.prompt_weights("default"))
    torch.testing.assert_close(made.weight, w * z + (1 - w) * e)
    gradient = torch.autograd.grad(made.weight.square().sum(), weight)[0]
    assert gradient.shape == shape
    learned = ~PADDING if per_token else torch.ones(3, dtype=torch.bool)
    assert torch.equal(gradient != 0, learned)  # of padding nothing is learned, not even a weight


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("init", ["default", "noise", "normal"])
def test_padding_stays_zero(init, per_token):
    made = layer(weight_per_token=per_token, init_embeddings=init, init_std=1.0)
    assert (made.ssprompt_embedding["default"][PADDING] == 0).all()
    before = made.weight.detach().clone()
    # a loss that pulls at every number, padding as well
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (made.weight - 1).square().sum().backward()
        optimizer.step()
    assert (made.weight[PADDING] == 0).all()
    assert (made.weight[~PADDING] != before[~PADDING]).all()
    made.merge()
    assert (made.base_layer.weight[PADDING] == 0).all()


def test_lengths_are_kept_token_by_token():
    made = layer(normalize_class_embeddings=True, init_embeddings="noise", init_std=2.0)
    torch.testing.assert_close(made.weight.norm(dim=-1), tokens().norm(dim=-1))
    assert not torch.allclose(made.weight, tokens())


def test_fixed_prompts_keep_their_tokens():
    made = layer(num_fixed=1, init_embeddings="normal", init_std=1.0, weight_per_token=True)
    assert made.ssprompt_embedding["default"].shape == SHAPE and made.ssprompt_weight["default"].shape == (3, 4)
    assert torch.equal(made.weight[3], torch.ones(SHAPE[1:])) and not torch.equal(made.weight[:3], tokens())


@pytest.mark.parametrize("per_token", [False, True])
def test_a_file_says_how_many_tokens_there_are(per_token):
    """Of a pending adapter, whose classes are not those of the base model."""
    made = layer(weight_per_token=per_token, init_embeddings="noise", init_std=1.0)
    tensors = {name: getattr(made, name)["default"].detach() for name in made.tensor_shapes("default")}
    assert set(tensors) == {"ssprompt_embedding", "ssprompt_weight", "ssprompt_default"}
    slot = Slot()
    slot.weight = None
    other = SSPromptLayer(slot, PromptSlot("classes", SEMANTIC), like=tokens())
    config = SSPromptConfig(class_names=CLASSES, weight_per_token=per_token)
    other.update_layer("default", config, None, (3, None, WIDTH))
    assert other.pending == {"default"}
    shapes = other.tensor_shapes("default")
    assert shapes["ssprompt_default"] == shapes["ssprompt_embedding"] == (3, None, WIDTH)
    assert shapes["ssprompt_weight"] == ((3, None) if per_token else (3,))
    other.load_tensors("default", tensors)
    other.set_adapter("default")
    assert not other.pending and torch.equal(other.weight, made.weight)


@pytest.mark.parametrize("name", ["ssprompt_embedding", "ssprompt_default", "ssprompt_weight"])
def test_tensors_of_a_file_that_do_not_fit_each_other(name):
    made = layer(weight_per_token=True)
    tensors = {name: getattr(made, name)["default"].detach() for name in made.tensor_shapes("default")}
    tensors[name] = tensors[name][:, :3]
    other = SSPromptLayer(Slot(), PromptSlot("classes", SEMANTIC), like=tokens())
    other.update_layer("default", made.configs["default"], None, (3, None, WIDTH))
    with pytest.raises(AdapterError, match="'default' do not fit each other"):
        other.load_tensors("default", tensors)
    assert other.pending == {"default"}


def test_the_size_of_a_step_is_that_of_real_tokens():
    scale = layer().learning_rate_scale("default", "ssprompt_embedding")
    torch.testing.assert_close(torch.tensor(scale), tokens()[~PADDING].square().mean().sqrt())
