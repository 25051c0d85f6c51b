"""Which base model is this? Adapters are of use on the very model they were trained on, and say which one that is."""

import hashlib
import re
import weakref
from collections.abc import Iterable, Iterator

import torch
import xxhash
from torch import nn

from ..utils.digests import tensor_bytes

SAMPLES_PER_TENSOR = 64
PIECE = 1 << 18
SMALL = 1 << 16
# Precisions in which a float32 model still has the same bits after rounding to bfloat16. Rounding twice, by float16
# first, is not the same, so of a float16 model only the architecture can be told.
_EXACT_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Precisions that weights are digested in, the finest first, with those that can be rounded to them without rounding
# twice.
_DIGESTED = {
    "float32": (torch.float32, torch.float64),
    "float16": (torch.float16, torch.float32, torch.float64),
    "bfloat16": (torch.bfloat16, torch.float32, torch.float64),
}


def _base_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that every copy of the base model has, by the names they have in the unwrapped model."""
    # PEFT's layers, of whatever method, keep what they surround as `base_layer`
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "base_layer")}
    optional = [re.compile(pattern) for pattern in getattr(model, "optional_parts", ())]
    # Slots that hold no part of the model itself, but what it was told of classes and points.
    slots = getattr(model, "prompt_slots", {}).values()
    dependent = tuple(f"{slot.path}." for slot in slots if not slot.is_part_of_model)
    tensors = {}
    for name, tensor in model.state_dict().items():
        # Layers of several methods may surround one module; the outermost comes first.
        prefix = next((prefix for prefix in layers if name.startswith(f"{prefix}.")), None)
        if prefix is not None:
            wrapped = prefix
            while wrapped in layers:
                wrapped += ".base_layer"
            own = name.removeprefix(f"{wrapped}.") if name.startswith(f"{wrapped}.") else None
            name = None if own is None else f"{prefix}.{own}"
            if own == "weight" and hasattr(layers[prefix], "base_prompt"):
                tensor = layers[prefix].base_prompt  # what the slot held before an adapter was merged into it
        if name is None or name.startswith(dependent) or any(pattern.search(name) for pattern in optional):
            continue
        tensors[name] = tensor
    return dict(sorted(tensors.items()))


@torch.no_grad()
def model_fingerprint(model: nn.Module) -> str:
    """
    A short text that tells base models apart: `architecture-weights`, 16 hexadecimal digits each.

    The first half is a hash of the model type and of the names and shapes of all tensors, the second one of up to 64
    evenly spaced values of each tensor, rounded to bfloat16. It is the same for a model loaded in float32, float64 or
    bfloat16, with or without its text encoder and spatial prompt encoder, with any class names, and with adapters
    active, disabled or merged. For other dtypes the second half is 16 zeros.

    Args:
        model: the base model (not a `PeftModel`), on any device.
    """
    tensors = _base_tensors(model)
    architecture = [str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))]
    architecture += [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()]
    weights = "0" * 16
    floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    if all(tensor.dtype in _EXACT_DTYPES for tensor in floating):
        samples = []
        for tensor in floating:
            count = min(SAMPLES_PER_TENSOR, tensor.numel())
            index = torch.arange(count, device=tensor.device) * tensor.numel() // max(count, 1)
            samples.append(tensor.reshape(-1)[index].to(torch.bfloat16))
        values = torch.cat(samples).cpu().view(torch.int16).numpy() if samples else b""
        weights = hashlib.sha256(bytes(values)).hexdigest()[:16]
    return f"{hashlib.sha256(chr(10).join(architecture).encode()).hexdigest()[:16]}-{weights}"


def fingerprint_difference(found: str, expected: str) -> str | None:
    """What sets two fingerprints apart: `"architecture"`, `"weights"`, or `None` if nothing that can be told does."""
    (found_architecture, _, found_weights), (architecture, _, weights) = found.partition("-"), expected.partition("-")
    if found_architecture != architecture:
        return "architecture"
    known = "0" * 16 not in (found_weights, weights)
    return "weights" if known and found_weights != weights else None


def _floating_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in _base_tensors(model).items() if tensor.is_floating_point()}


def _digest(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> str:
    digest = xxhash.xxh3_128()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        for piece in _pieces(tensor, dtype):
            digest.update(tensor_bytes(piece))
    return digest.hexdigest()


def _pieces(tensor: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """The tensor in another precision, piece by piece in one small buffer, which stays in the processor's cache."""
    flat = tensor.reshape(-1)
    if tensor.dtype == dtype:
        yield flat
        return
    buffer = torch.empty(min(PIECE, len(flat)), dtype=dtype, device=tensor.device)
    for piece in flat.split(PIECE):
        yield buffer[: len(piece)].copy_(piece)


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[tuple, dict[str, str]]] = weakref.WeakKeyDictionary()


def _known_digests(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """
    What has been computed of these very tensors, by precision, to be added to: every adapter that is loaded asks.

    Large tensors are the same where their memory, PyTorch's count of changes and the samples of the fingerprint are;
    small ones, among them those that adapters are merged into, where all their values are.
    """
    key: list = [model_fingerprint(model)]
    for name, tensor in tensors.items():
        if tensor.is_inference():  # whose changes are not counted
            return {}
        is_small = tensor.numel() <= SMALL
        state = xxhash.xxh3_128_digest(tensor_bytes(tensor)) if is_small else (tensor.data_ptr(), tensor._version)
        key.append((name, tensor.shape, tensor.dtype, tensor.device, state))
    found = _KNOWN.get(model)
    if found is None or found[0] != tuple(key):
        found = _KNOWN[model] = (tuple(key), {})
    return found[1]


@torch.no_grad()
def weight_digests(model: nn.Module) -> dict[str, str]:
    """
    Digests of every bit of the base model's weights, by the precision that they were rounded to.

    A model may be loaded in half precision, or saved in it; so there is one for each precision that the weights can
    be rounded to: all three for a float32 model, one for a model in half precision. They tell more than
    [`model_fingerprint`], which looks at samples, and what they say of names and parts is the same. XXH3 finds every
    accident, at the speed of memory; it is no proof against somebody who wants to deceive.

    Args:
        model: the base model (not a `PeftModel`), on any device.

    Returns:
        `"float32"`, `"float16"`, `"bfloat16"` -> 32 hexadecimal digits.
    """
    tensors = _floating_tensors(model)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    known = _known_digests(model, tensors)
    names = [name for name, exact in _DIGESTED.items() if dtypes <= {*exact}]
    for name in names:
        known[name] = known.get(name) or _digest(tensors, getattr(torch, name))
    return {name: known[name] for name in names}


@torch.no_grad()
def has_weights(model: nn.Module, digests: dict[str, str]) -> bool:
    """
    Whether a base model has the weights that `digests` are of, or the same rounded to half precision. True, too, if
    that cannot be told: of a model in float16, say, whose digests were made in bfloat16.
    """
    tensors = _floating_tensors(model)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    known = [name for name, exact in _DIGESTED.items() if name in digests and dtypes <= {*exact}]
    finest = next((name for name in _DIGESTED if name in digests), None)
    computed = _known_digests(model, tensors)
    comparable = False
    for name in known:
        dtype = getattr(torch, name)
        # a float32 model may come from files in half precision; then there is nothing finer in it
        if name == finest or dtype in dtypes or _is_rounded(tensors.values(), dtype):
            comparable = True
            computed[name] = computed.get(name) or _digest(tensors, dtype)
            if computed[name] == digests[name]:
                return True
    return not comparable


def _is_rounded(tensors: Iterable[torch.Tensor], dtype: torch.dtype) -> bool:
    return all(
        torch.equal(rounded.to(piece.dtype), piece)
        for tensor in tensors
        if tensor.dtype != dtype
        for piece, rounded in zip(tensor.reshape(-1).split(PIECE), _pieces(tensor, dtype))
    )


@torch.no_grad()
def first_not_finite(tensors: dict[str, torch.Tensor]) -> str | None:
    """The name of a floating-point tensor that holds NaN or infinity; None if none does."""
    for name, tensor in tensors.items():
        # a sum is many times faster than a look at every value, and no NaN and no infinity gets lost in it
        suspicious = tensor.is_floating_point() and not tensor.sum(dtype=torch.float32).isfinite()
        if suspicious and not tensor.float().isfinite().all():
            return name
    return None
