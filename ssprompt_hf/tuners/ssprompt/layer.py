import math

import torch
from torch import nn
from torch.nn import functional as F

from ...errors import AdapterError
from ...models.interface import PromptSlot
from ..base.layer import PromptLayer, Shape, root_mean_square
from ..peft_compat import BufferDict
from .config import SSPromptConfig

# Of the stored parameter of `w`, a logit: at a tenth of this a whole training would not bring it from 0.5 near 0 or 1.
WEIGHT_RATE = 10.0
# Of the stored parameter of a class mask's share, which is to get near 1 where that pays: at a third it does not.
SHARE_RATE = 3.0
CALIBRATIONS = {"ssprompt_scale": 1.0, "ssprompt_bias": 0.0}
"""What there may be one number of for each class, and where it starts."""


class SSPromptLayer(PromptLayer):
    """
    A prompt slot with learned embeddings `e` and weights `w` beside its default prompts `z`, and perhaps a scale and a
    bias of each class.

    One weight a prompt, whatever else a prompt has: of `(N, D)` one a row, of `(levels, N, D)` one for all levels of a
    point, of `(K, L, D)` one for all tokens of a class (or one a token, `weight_per_token`). Where a class has M
    prompts, `e` is `(K, M, D)`, `w` `(K, M)`, and `z` the same for all; the slot gets them side by side, `(K, M * D)`.
    The slot's fixed prompts are not learned. A token that is all zeros is padding, and stays it. Deep prompts are
    offsets, and nothing else; class masks are weights and a bias `(K, C + 1)`, and shares, each the hyperbolic tangent
    of a parameter that is not negative: 0 exactly at the start, where a sigmoid would need an infinite one.

    Args:
        base_layer (`nn.Module`), slot (`PromptSlot`), like (`torch.Tensor`): see [`PromptLayer`].
    """

    adapter_layer_names = ("ssprompt_embedding", "ssprompt_weight", *CALIBRATIONS, "ssprompt_offset")
    adapter_layer_names += ("ssprompt_mask", "ssprompt_share")
    other_param_names = ("ssprompt_default",)

    def __init__(self, base_layer: nn.Module, slot: PromptSlot, like: torch.Tensor):
        super().__init__(base_layer, slot, like)
        self.ssprompt_embedding = nn.ParameterDict()
        self.ssprompt_weight = nn.ParameterDict()
        self.ssprompt_scale, self.ssprompt_bias = nn.ParameterDict(), nn.ParameterDict()
        self.ssprompt_offset = nn.ParameterDict()
        self.ssprompt_mask, self.ssprompt_share = nn.ParameterDict(), nn.ParameterDict()
        self.ssprompt_default = BufferDict(persistent=True)
        self._shapes: dict[str, Shape] = {}  # of the default prompts of pending adapters

    def learning_rate_scale(self, adapter_name: str, parameter: str) -> float:
        """See [`PromptLayer.learning_rate_scale`]."""
        if parameter == "ssprompt_weight":
            return WEIGHT_RATE
        if parameter in CALIBRATIONS:
            return 1.0
        if parameter == "ssprompt_share":
            return SHARE_RATE
        if parameter == "ssprompt_mask":
            return root_mean_square(self.ssprompt_mask[adapter_name]) or 1.0
        if self.slot.scale is not None:
            return self.slot.scale
        default = self.default_prompt(adapter_name)
        return root_mean_square(default[_is_token(default)] if self._has_tokens(default) else default)

    def _has_tokens(self, prompts: torch.Tensor) -> bool:
        """Whether a prompt is several token vectors, some of which may be padding."""
        return self.holds_classes and prompts.ndim == self.slot.row_dim + 3

    def _stores_default(self) -> bool:
        """Whether an adapter keeps `z` itself; prompts that are part of the base model are there already, and deep
        prompts and class masks have none."""
        return not self.slot.is_part_of_model and not self.slot.is_deep and not self.slot.is_masks

    def update_layer(
        self, adapter_name: str, config: SSPromptConfig, default: torch.Tensor | None, shape: Shape
    ) -> None:
        """
        Add an adapter.

        Args:
            adapter_name: its name.
            config: its configuration.
            default: `z`; None if it is still to come, by `load_tensors` or `set_default_prompt`.
            shape: of `z`.
        """
        self.configs[adapter_name] = config
        if self.slot.is_deep:
            self.ssprompt_offset[adapter_name] = nn.Parameter(default.to(self.adapter_dtype))
            return
        if self.slot.is_masks:
            mask, share = default.to(self.adapter_dtype).tensor_split([-1], dim=1)
            self.ssprompt_mask[adapter_name] = nn.Parameter(mask.clone())
            self.ssprompt_share[adapter_name] = nn.Parameter(share[:, 0].clone())
            return
        parts = config.learned_parts(self.slot.kind)
        if any(parts) and not parts.embedding:
            self.frozen_peft_weight_names[adapter_name] = ("ssprompt_embedding",)
        if default is None:
            self.pending.add(adapter_name)
            self._shapes[adapter_name] = shape
            return
        default = default.detach().to(torch.promote_types(default.dtype, torch.float32))
        if self._stores_default():
            self.ssprompt_default[adapter_name] = default.clone()
        for attribute in self._calibrations(config):
            start = default.new_full((len(self._split(default)[0]),), CALIBRATIONS[attribute])
            getattr(self, attribute)[adapter_name] = nn.Parameter(start)
        if not any(parts):
            return
        self.ssprompt_embedding[adapter_name] = nn.Parameter(self._initial_embedding(config, default))
        if parts.weight:
            initial = config.init_weight
            if config.weight_range == "unit":
                initial = math.log(initial / (1 - initial))
            embedding = self.ssprompt_embedding[adapter_name]
            count = embedding.shape[self.slot.row_dim : self.slot.row_dim + self._weight_dims(config, embedding)]
            self.ssprompt_weight[adapter_name] = nn.Parameter(default.new_full(count, initial))

    def _calibrations(self, config: SSPromptConfig) -> list[str]:
        """The attributes with one number a class that an adapter has."""
        wanted = {"ssprompt_scale": config.semantic_scale, "ssprompt_bias": config.semantic_bias}
        return [attribute for attribute in CALIBRATIONS if self.holds_classes and wanted[attribute]]

    def _weight_dims(self, config: SSPromptConfig, embedding: torch.Tensor) -> int:
        one_a_token = config.weight_per_token and self._has_tokens(embedding)
        return 2 if one_a_token or self._has_several(config) else 1

    def _has_several(self, config: SSPromptConfig) -> bool:
        """Whether a class has several prompts."""
        return self.holds_classes and config.prompts_per_class > 1

    def _for_each(self, config: SSPromptConfig, learned: torch.Tensor) -> torch.Tensor:
        """Default prompts in the shape of their embeddings: once for each prompt of a class."""
        return learned[:, None].expand(-1, config.prompts_per_class, -1) if self._has_several(config) else learned

    def _initial_embedding(self, config: SSPromptConfig, default: torch.Tensor) -> torch.Tensor:
        learned = self._for_each(config, self._split(default)[0])
        if config.init_embeddings == "default":
            return learned.clone()
        noise = torch.randn_like(learned) * config.init_std
        if self._has_tokens(default):
            noise = noise * _is_token(learned)[..., None]
        return noise if config.init_embeddings == "normal" else learned + noise

    def _split(self, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompts that can be learned, and the fixed ones."""
        dim = self.slot.row_dim
        return prompts.tensor_split([prompts.shape[dim] - self.slot.num_fixed], dim=dim)

    def tensor_shapes(self, adapter_name: str) -> dict[str, Shape]:
        """See [`PromptLayer.tensor_shapes`]."""
        if adapter_name not in self.pending:
            return super().tensor_shapes(adapter_name)
        config, shape, dim = self.configs[adapter_name], self._shapes[adapter_name], self.slot.row_dim
        shapes: dict[str, Shape] = {"ssprompt_default": shape} if self._stores_default() else {}
        parts = config.learned_parts(self.slot.kind)
        rows = shape[dim] - self.slot.num_fixed
        shapes |= dict.fromkeys(self._calibrations(config), (rows,))
        if any(parts):
            count = (config.prompts_per_class,) if self._has_several(config) else ()
            shapes["ssprompt_embedding"] = (*shape[:dim], rows, *count, *shape[dim + 1 :])
            if parts.weight:
                has_tokens = self.holds_classes and len(shape) == dim + 3
                shapes["ssprompt_weight"] = (rows, None) if config.weight_per_token and has_tokens else (rows, *count)
        return shapes

    def load_tensors(self, adapter_name: str, tensors: dict[str, torch.Tensor]) -> None:
        """See [`PromptLayer.load_tensors`].

        Raises:
            AdapterError: the tensors do not fit each other.
        """
        default, embedding = tensors.get("ssprompt_default"), tensors.get("ssprompt_embedding")
        config = self.configs[adapter_name]
        if embedding is not None:
            shapes = {"ssprompt_embedding": tuple(embedding.shape)}
            if default is not None:
                shapes["ssprompt_default"] = tuple(self._for_each(config, self._split(default)[0]).shape)
            if "ssprompt_weight" in tensors:
                weight = tuple(tensors["ssprompt_weight"].shape)
                dim = self.slot.row_dim
                shapes["ssprompt_weight"] = (*embedding.shape[:dim], *weight, *embedding.shape[dim + len(weight) :])
            if len(set(shapes.values())) > 1:
                raise AdapterError(f"the tensors of adapter {adapter_name!r} do not fit each other: {shapes}")
        super().load_tensors(adapter_name, tensors)

    @torch.no_grad()
    def set_default_prompt(self, adapter_name: str, default: torch.Tensor) -> None:
        """Replace the stored `z`, or give it to a pending adapter, and begin again with the embeddings that the
        configuration starts from it.

        Raises:
            AdapterError: another shape than the adapter was made for, or values that are not finite.
        """
        is_stored = adapter_name in self.ssprompt_default
        shape = tuple(self.ssprompt_default[adapter_name].shape) if is_stored else self._shapes[adapter_name]
        _check_given(f"adapter {adapter_name!r} needs finite default prompts", default, shape)
        default = default.detach().to(self.reference.device, self.adapter_dtype, copy=True)
        if not is_stored:
            self.update_layer(adapter_name, self.configs[adapter_name], default, shape)
            self.pending.discard(adapter_name)
            return
        self.ssprompt_default[adapter_name] = default
        if adapter_name in self.ssprompt_embedding:
            embedding = self.ssprompt_embedding[adapter_name]
            embedding.copy_(self._initial_embedding(self.configs[adapter_name], default.to(embedding)))

    @torch.no_grad()
    def set_class_masks(self, adapter_name: str, masks: torch.Tensor) -> None:
        """
        Let the class masks of an adapter begin as `masks`, weights and bias `(K, C + 1)`, without any share yet.

        Raises:
            AdapterError: another shape, or values that are not finite.
        """
        mask = self.ssprompt_mask[adapter_name]
        _check_given(f"adapter {adapter_name!r} needs finite class masks", masks, tuple(mask.shape))
        mask.copy_(masks)
        self.ssprompt_share[adapter_name].zero_()

    @torch.no_grad()
    def start_towards(self, adapter_name: str, directions: torch.Tensor, share: float) -> None:
        """
        Let the class prompts `z_hat` `(K, D)` begin at a share of the way from the default ones `z` to others, `p`, by
        `e = z + share / (1 - w) * (p - z)`.

        Args:
            adapter_name: its name; it learns `e`, and its `w` are as in the beginning.
            directions: `(K, D)`: `p`, which get the length of the default ones. A row of zeros is none, and its class
                begins with the default.
            share: 0 to 1; 0 gives the default prompts exactly.
        """
        embedding = self.ssprompt_embedding[adapter_name]
        config = self.configs[adapter_name]
        own = 1 - config.init_weight
        default = self._split(self.default_prompt(adapter_name))[0].to(embedding)
        directions = directions.to(embedding)
        length = directions.norm(dim=-1, keepdim=True)
        goals = directions * (default.norm(dim=-1, keepdim=True) / length.clamp(min=torch.finfo(length.dtype).tiny))
        start = default + share / own * (torch.where(length > 0, goals, default) - default)
        embedding.copy_(self._for_each(config, start))

    def default_prompt(self, adapter_name: str) -> torch.Tensor:
        """See [`PromptLayer.default_prompt`]."""
        self._check_not_pending(adapter_name)
        return self.ssprompt_default[adapter_name] if self._stores_default() else self.base_prompt

    def prompt_weights(self, adapter_name: str) -> torch.Tensor | float | None:
        """
        The weights `w` of the default prompts: `(N,)`, or `(K, L)` with one a token, `(K, M)` with several prompts a
        class; one number if they are not learned, `None` if the adapter learns nothing of this kind.
        """
        if adapter_name not in self.ssprompt_embedding:
            return None
        config = self.configs[adapter_name]
        if adapter_name not in self.ssprompt_weight:
            return config.init_weight
        weight = self.ssprompt_weight[adapter_name]
        return weight.sigmoid() if config.weight_range == "unit" else weight

    def adapter_prompt(self, adapter_name: str) -> torch.Tensor:
        """Eq. 4 and 6. Written as `z + (1 - w) * (e - z)`, so that `e = z` gives `z` bit for bit whatever `w` is."""
        if self.slot.is_deep:
            return self.ssprompt_offset[adapter_name]
        if self.slot.is_masks:
            share = self.ssprompt_share[adapter_name]
            # below 0, too, it has a gradient, by which it comes back
            share = share.detach().clamp(min=0) + (share - share.detach())
            return torch.cat([self.ssprompt_mask[adapter_name], share.tanh()[:, None]], dim=1)
        default = self.default_prompt(adapter_name)
        weight, config = self.prompt_weights(adapter_name), self.configs[adapter_name]
        if weight is None:
            return self._calibrated(adapter_name, *self._split(default)) if self._calibrations(config) else default
        embedding = self.ssprompt_embedding[adapter_name]
        default = default.to(embedding.dtype)
        learned, fixed = self._split(default)
        learned = self._for_each(config, learned)
        own = 1 - weight
        if isinstance(own, torch.Tensor):
            own = own.view(*own.shape, *[1] * (embedding.ndim - self.slot.row_dim - own.ndim))
        fused = learned + own * (embedding - learned)
        if self.holds_classes and config.normalize_class_embeddings:
            # The ratio of equal numbers is exactly 1, so this too leaves an untrained adapter as it is.
            tiny = torch.finfo(fused.dtype).tiny
            length, wanted = (x.norm(dim=-1, keepdim=True).clamp(min=tiny) for x in (fused, learned))
            fused = fused * (wanted / length)
        if self._has_several(config):
            fused, fixed = fused.flatten(1), fixed.repeat(1, config.prompts_per_class)
        elif self._has_tokens(learned):
            fused = fused * _is_token(learned)[..., None]  # whatever a loss says of padding
        return self._calibrated(adapter_name, fused, fixed)

    def _calibrated(self, adapter_name: str, prompts: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """All prompts of an adapter, those of classes with their scale and bias, if there are any."""
        if adapter_name in self.ssprompt_scale:
            prompts = prompts * self.ssprompt_scale[adapter_name][:, None]
        if adapter_name in self.ssprompt_bias:
            prompts = torch.cat([prompts, self.ssprompt_bias[adapter_name][:, None]], dim=-1)
            fixed = F.pad(fixed, (0, 1))
        return torch.cat([prompts, fixed.to(prompts.dtype)], dim=self.slot.row_dim)

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        self._shapes.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def __repr__(self) -> str:
        return "ssprompt." + super().__repr__()


def _check_given(needs: str, given: torch.Tensor, shape: Shape) -> None:
    """Raises `AdapterError`, which begins with what is needed, if a tensor has another shape or is not finite."""
    fits = given.ndim == len(shape) and all(wanted in (None, side) for side, wanted in zip(given.shape, shape))
    if not fits or not given.isfinite().all():
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise AdapterError(
            f"{needs} of shape ({wanted}), got {'values that are not finite' if fits else tuple(given.shape)}"
        )


def _is_token(prompts: torch.Tensor) -> torch.Tensor:
    """bool `(K, L)` of `(K, L, D)`: what is no padding."""
    return (prompts != 0).any(-1)
