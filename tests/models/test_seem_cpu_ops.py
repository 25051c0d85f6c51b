"""The CPU routes equal PyTorch's own operations, with gradients; every route is forced by lowering its threshold."""

import pytest
import torch
from torch.nn import functional as F

from ssprompt_hf.utils import cpu_ops
from ssprompt_hf.utils.cpu_ops import matmul, scaled_dot_product_attention


@pytest.fixture(autouse=True)
def small_thresholds(monkeypatch):
    monkeypatch.setattr(cpu_ops, "MIN_LINEAR_SIZE", 1)
    monkeypatch.setattr(cpu_ops, "MIN_SCORES", 1)
    monkeypatch.setattr(cpu_ops, "CHUNK_ELEMENTS", 64)
    torch.manual_seed(0)


def heads(queries: int, batch_size: int = 2) -> torch.Tensor:
    """Laid out as a projection leaves them: `(B, heads, queries, head_dim)`, not contiguous."""
    return torch.randn(batch_size, queries, 32).unflatten(-1, (4, 8)).transpose(1, 2).requires_grad_()


def compare(function, expected_function, *inputs):
    result, expected = function(*inputs), expected_function(*inputs)
    torch.testing.assert_close(result, expected)
    weight = torch.randn_like(expected)
    gradients, expected_gradients = (
        torch.autograd.grad((output * weight).sum(), inputs) for output in (result, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(function(*inputs), result)


@pytest.mark.parametrize("mask_shape", [None, (2, 1, 9, 20), (1, 4, 9, 20), (9, 20)])
def test_attention_is_pytorchs(mask_shape):
    mask = None
    if mask_shape is not None:
        mask = torch.rand(mask_shape) > 0.5
        mask[..., 3] = True
    compare(
        lambda *inputs: scaled_dot_product_attention(*inputs, mask),
        lambda *inputs: F.scaled_dot_product_attention(*inputs, attn_mask=mask),
        heads(9),
        heads(20),
        heads(20),
    )


def test_attention_of_many_prompts_to_one_image():
    query, keys = heads(9), heads(20, batch_size=1)
    expanded = keys.expand(2, -1, -1, -1)
    torch.testing.assert_close(
        scaled_dot_product_attention(query, expanded, expanded),
        F.scaled_dot_product_attention(query, expanded, expanded),
    )


@pytest.mark.parametrize("memory", ["contiguous", "channels last", "strided"])
def test_matmul_is_pytorchs(memory):
    features = torch.randn(2, 8, 12)
    if memory == "channels last":
        features = features.transpose(1, 2).contiguous().transpose(1, 2)
    elif memory == "strided":
        features = torch.randn(2, 8, 24)[..., ::2]
    compare(matmul, torch.matmul, torch.randn(2, 5, 8, requires_grad=True), features.requires_grad_())
