import math

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import nn

from ...errors import AdapterError
from ..base.layer import LOAD_CLASSES, PromptLayer, root_mean_square
from .config import SSPromptConfig

# Of the stored parameter of `w`, a logit: at a tenth of this a whole training would not bring it from 0.5 near 0 or 1.
WEIGHT_RATE = 10.0


class SSPromptLayer(PromptLayer):
    """
    A prompt slot with learned embeddings `e` and weights `w` beside its default prompts `z`.

    Prompts are the second last dimension: `(N, D)`, or `(levels, N, D)` with one weight for all levels of a point. The
    last `num_fixed` of them are not learned.

    Args:
        base_layer (`nn.Module`), like (`torch.Tensor`): see [`PromptLayer`].
        kind (`str`): `"spatial"` or `"semantic"`.
    """

    adapter_layer_names = ("ssprompt_embedding", "ssprompt_weight")
    other_param_names = ("ssprompt_default",)

    def __init__(self, base_layer: nn.Module, like: torch.Tensor, kind: str):
        super().__init__(base_layer, like)
        self.kind = kind
        self.holds_classes = kind == "semantic"
        self.num_fixed = 1 if kind == "semantic" else 0  # "background" stays what it is
        self.configs: dict[str, SSPromptConfig] = {}
        self.ssprompt_embedding = nn.ParameterDict()
        self.ssprompt_weight = nn.ParameterDict()
        self.ssprompt_default = BufferDict(persistent=True)

    def has_adapter(self, adapter_name: str) -> bool:
        return adapter_name in self.configs

    def learning_rate_scale(self, adapter_name: str, parameter: str) -> float:
        """See [`PromptLayer.learning_rate_scale`]."""
        if parameter == "ssprompt_weight":
            return WEIGHT_RATE
        return root_mean_square(self.default_prompt(adapter_name))

    def update_layer(self, adapter_name: str, config: SSPromptConfig, default: torch.Tensor, store: bool) -> None:
        """
        Add an adapter.

        Args:
            adapter_name: its name.
            config: its configuration.
            default: `z`, which gives the shape and, if it is stored, the values; NaN where they are not known yet.
            store: whether the adapter keeps `z` itself; otherwise it is the slot's.
        """
        self.configs[adapter_name] = config
        # Adapters are float32 at least: they are small, and half precision would lose the steps of training.
        default = default.detach().to(torch.promote_types(default.dtype, torch.float32))
        if store:
            self.ssprompt_default[adapter_name] = default.clone()
            self._unchecked_defaults.add(adapter_name)
        parts = config.learned_parts(self.kind)
        if not any(parts):
            return
        self.ssprompt_embedding[adapter_name] = nn.Parameter(self._initial_embedding(config, default))
        if parts.weight:
            count = self.ssprompt_embedding[adapter_name].shape[-2]
            initial = config.init_weight
            if config.weight_range == "unit":
                initial = math.log(initial / (1 - initial))
            self.ssprompt_weight[adapter_name] = nn.Parameter(default.new_full((count,), initial))
        if not parts.embedding:
            self.frozen_peft_weight_names[adapter_name] = ("ssprompt_embedding",)

    def _initial_embedding(self, config: SSPromptConfig, default: torch.Tensor) -> torch.Tensor:
        learned = default[..., : default.shape[-2] - self.num_fixed, :]
        if config.init_embeddings == "default":
            return learned.clone()
        noise = torch.randn_like(learned) * config.init_std
        return noise if config.init_embeddings == "normal" else learned + noise

    @torch.no_grad()
    def set_default_prompt(self, adapter_name: str, default: torch.Tensor) -> None:
        """Replace the stored `z`, and begin again with the embeddings that the configuration starts from it.

        Raises:
            AdapterError: another shape than the adapter was made for, or values that are not finite.
        """
        stored = self.ssprompt_default[adapter_name]
        if default.shape != stored.shape or not default.isfinite().all():
            raise AdapterError(
                f"adapter {adapter_name!r} needs finite default prompts of shape {tuple(stored.shape)}, got "
                f"{'values that are not finite' if default.shape == stored.shape else tuple(default.shape)}"
            )
        self.ssprompt_default[adapter_name] = default.detach().to(stored).clone()
        if adapter_name in self.ssprompt_embedding:
            embedding = self.ssprompt_embedding[adapter_name]
            embedding.copy_(self._initial_embedding(self.configs[adapter_name], default.to(embedding)))

    def default_prompt(self, adapter_name: str) -> torch.Tensor:
        """See [`PromptLayer.default_prompt`]; stored ones are looked at before their first use."""
        if adapter_name not in self.ssprompt_default:
            return self.base_prompt
        remedy = LOAD_CLASSES
        if self.kind == "spatial":
            remedy = "set them with set_point_tokens, or load them with the adapter's files"
        return self._checked_default(adapter_name, self.ssprompt_default[adapter_name], self.kind, remedy)

    def prompt_weights(self, adapter_name: str) -> torch.Tensor | float | None:
        """
        The weights `w` of the default prompts: `(N,)`, one number if they are not learned, `None` if the adapter
        learns nothing of this kind.
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
        default = self.default_prompt(adapter_name)
        weight = self.prompt_weights(adapter_name)
        if weight is None:
            return default
        embedding = self.ssprompt_embedding[adapter_name]
        default = default.to(embedding.dtype)
        learned, fixed = default.tensor_split([embedding.shape[-2]], dim=-2)
        own = 1 - weight
        fused = learned + (own[:, None] if isinstance(own, torch.Tensor) else own) * (embedding - learned)
        if self.kind == "semantic" and self.configs[adapter_name].normalize_class_embeddings:
            # The ratio of equal numbers is exactly 1, so this too leaves an untrained adapter as it is.
            tiny = torch.finfo(fused.dtype).tiny
            length, wanted = (x.norm(dim=-1, keepdim=True).clamp(min=tiny) for x in (fused, learned))
            fused = fused * (wanted / length)
        return torch.cat([fused, fixed], dim=-2)

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        self.configs.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def __repr__(self) -> str:
        return "ssprompt." + super().__repr__()
