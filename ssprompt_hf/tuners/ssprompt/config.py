from dataclasses import dataclass
from typing import NamedTuple

from ...errors import AdapterError
from ...models.interface import KINDS, SEMANTIC, SPATIAL
from ..base.config import MAX_GRID_SIZE, PromptConfig, check_choice, check_range
from ..peft_compat import PromptPeftType

SPATIAL_SOURCES = ("object_queries", "point_grid")
SEMANTIC_SOURCES = ("default", "words")
INITIALISATIONS = ("default", "noise", "normal")
WEIGHT_RANGES = ("unit", "free")
DEEP_PROMPTS = ("none", "last", "all")
MAX_PROMPTS_PER_CLASS = 64


class LearnedParts(NamedTuple):
    """Which halves of `z_hat = w * z + (1 - w) * e` are learned for one kind of prompt."""

    embedding: bool
    weight: bool


@dataclass
class SSPromptConfig(PromptConfig):
    """
    Configuration of SSPrompt: learned spatial and semantic prompts beside the frozen default ones,

        z_hat = w * z + (1 - w) * e        (eq. 4 for spatial prompts, eq. 6 for semantic ones)

    with one embedding `e` and one weight `w` per prompt. What a base model keeps fixed, as SEEM its "background",
    keeps its default embedding. Where class scores are linear in the semantic prompts, as in SEEM, a class may have a
    learned scale `a` and bias `b` besides, which are ours:

        logit_k = a_k * <query, z_hat_k> + b_k

    There a class may also have several semantic prompts, each with its `e` and `w`; a query's logit of the class is
    that of the best of them:

        logit_k = max_m <query, z_hat_km>

    So may each object query have learned offsets of its states in the decoder, the deep prompts of Jia et al., "Visual
    prompt tuning" (2022), which start at 0.

    And a class may have a mask of its own, for what no object query draws. It is a linear function of the features `f`
    of a pixel that masks are made of, and has a share `s` of the class's score, in the form of eq. 4 and 6:

        score_k = (1 - s_k) * sum_q p_qk * mask_q + s_k * sigmoid(<v_k, f> + c_k)

    The share begins at 0, so that the untrained adapter changes nothing, and `v` and `c` where training images put
    them (`training/class_masks.py`).

    The rows of the paper's Table 5 are choices of the first four fields. A weight without an embedding has nothing to
    weigh as long as `e = z`, so it needs another `init_embeddings`; `e` is then drawn once and kept as it is.

    Args:
        spatial_embedding, spatial_weight (`bool`, *optional*, defaults to `True`):
            Learn `e` and `w` of the spatial prompts. An embedding without a weight keeps `w = init_weight`.
        semantic_embedding, semantic_weight (`bool`, *optional*, defaults to `True`):
            The same for the semantic prompts.
        semantic_scale, semantic_bias (`bool`, *optional*, defaults to `False`):
            Learn `a` and `b`, one number a class each, which start at 1 and 0; SEEM only.
        prompts_per_class (`int`, *optional*, defaults to 1):
            Semantic prompts of a class; SEEM only. Several can stand for a class that looks like several things. As
            long as they are equal, only the first one learns; `init_embeddings="noise"` sets them apart.
        spatial_source (`str`, *optional*, defaults to `"object_queries"`):
            What the spatial prompts are: the decoder's object queries, or `"point_grid"`, the tokens that the model's
            visual sampler makes of a regular grid of points, averaged over the training images. These depend on
            images, so they are handed over by `set_point_tokens` after the adapter is created.
        deep_prompts (`str`, *optional*, defaults to `"none"`):
            Offsets `(N, D)` of the states of N object queries, besides the spatial prompts, which are what these
            states begin with: `"last"` adds one before the last prediction of masks and classes, `"all"` one after
            each layer of the decoder; SEEM only.
        class_masks (`bool`, *optional*, defaults to `False`):
            Learn a mask of each class, `v`, `c` and `s` of the last equation; SEEM only, and semantic segmentation by
            `SSPromptTrainer`, as Mask2Former's loss compares the masks of queries alone.
        point_grid_size (`int`, *optional*, defaults to 10):
            Points per row and column of the grid.
        semantic_source (`str`, *optional*, defaults to `"default"`):
            What the semantic prompts start from, on base models that know no words (SAM, SAM 2): the base model's own
            question, the same for all classes, or `"words"`, what the text encoder of another model makes of the
            class names. It is lent to the base model while an adapter is made. Other base models start from words
            anyway.
        text_encoder (`str`, *optional*):
            Folder or Hub id of that text encoder, by default `"openai/clip-vit-base-patch32"`.
        weight_range (`str`, *optional*, defaults to `"unit"`):
            `"unit"`: `w` is the sigmoid of the stored parameter and stays between 0 and 1; `"free"`: it is the stored
            parameter.
        init_weight (`float`, *optional*, defaults to 0.5):
            `w` before training.
        init_embeddings (`str`, *optional*, defaults to `"default"`):
            `e` before training: `"default"` is `z`, so that the untrained adapter changes nothing, bit for bit;
            `"noise"` is `z` plus, `"normal"` is nothing but, normal noise of `init_std`.
        init_std (`float`, *optional*, defaults to 0.02):
            Standard deviation of that noise.
        weight_per_token (`bool`, *optional*, defaults to `False`):
            Where a class is several token vectors (SAM 3): one semantic weight a token, in place of one a class.
        normalize_class_embeddings (`bool`, *optional*, defaults to `False`):
            Give fused class embeddings the length of the default ones.

    Raises:
        AdapterError: nothing is learned, a weight is learned that has nothing to weigh, or a value is out of range.
    """

    spatial_embedding: bool = True
    spatial_weight: bool = True
    semantic_embedding: bool = True
    semantic_weight: bool = True
    semantic_scale: bool = False
    semantic_bias: bool = False
    prompts_per_class: int = 1
    spatial_source: str = "object_queries"
    deep_prompts: str = "none"
    class_masks: bool = False
    point_grid_size: int = 10
    semantic_source: str = "default"
    text_encoder: str | None = None
    weight_range: str = "unit"
    init_weight: float = 0.5
    init_embeddings: str = "default"
    init_std: float = 0.02
    weight_per_token: bool = False
    normalize_class_embeddings: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PromptPeftType.SSPROMPT
        check_choice("spatial_source", self.spatial_source, SPATIAL_SOURCES)
        check_choice("semantic_source", self.semantic_source, SEMANTIC_SOURCES)
        check_choice("weight_range", self.weight_range, WEIGHT_RANGES)
        check_choice("deep_prompts", self.deep_prompts, DEEP_PROMPTS)
        check_choice("init_embeddings", self.init_embeddings, INITIALISATIONS)
        for kind in KINDS:
            parts = self.learned_parts(kind)
            if parts.weight and not parts.embedding and self.init_embeddings == "default":
                raise AdapterError(
                    f"{kind}_weight=True with {kind}_embedding=False weighs the default prompts against themselves: "
                    f"learn the embedding, switch the weight off, or set init_embeddings to 'noise' or 'normal'"
                )
        if not any(map(self.learns, KINDS)):
            raise AdapterError(
                "nothing is learned: set at least one of spatial_embedding, spatial_weight, semantic_embedding, "
                "semantic_weight, semantic_scale, semantic_bias, deep_prompts and class_masks. Zero-shot segmentation "
                "needs no adapter"
            )
        check_range("prompts_per_class", self.prompts_per_class, 1, MAX_PROMPTS_PER_CLASS)
        if self.prompts_per_class > 1 and not self.semantic_embedding:
            raise AdapterError(
                f"prompts_per_class is {self.prompts_per_class}, but prompts of a class differ by their embeddings "
                "alone: set semantic_embedding=True, or leave prompts_per_class out"
            )
        if self.has_deep_prompts and self.spatial_source != "object_queries":
            raise AdapterError(
                f"deep_prompts is {self.deep_prompts!r}, but spatial_source is {self.spatial_source!r}: deep prompts "
                "belong to object queries; leave out one of them"
            )
        if self.class_masks and self.task != "semantic":
            raise AdapterError(
                f"class_masks is True, but the task is {self.task!r}: a mask of a whole class knows no single "
                "objects; leave class_masks out"
            )
        if self.weight_range == "unit" and not 0 < self.init_weight < 1:
            raise AdapterError(
                f"init_weight is {self.init_weight}; with weight_range='unit' it must lie between 0 and 1"
            )
        check_range("point_grid_size", self.point_grid_size, 1, MAX_GRID_SIZE)
        if self.init_std < 0:
            raise AdapterError(f"init_std is {self.init_std}; it must not be negative")

    @property
    def learned(self) -> str:
        """See [`PromptConfig.learned`]."""
        return " and ".join(filter(self.learns, KINDS)) + " prompts"

    @property
    def method_name(self) -> str:
        """SSPrompt, or its spatial or semantic half alone."""
        spatial, semantic = map(self.learns, KINDS)
        return "SSPrompt" if spatial and semantic else "SpaPrompt" if spatial else "SemPrompt"

    @property
    def default_shrinkage(self) -> float:
        """See [`PromptConfig.default_shrinkage`]: 0 where training does not begin with zero-shot segmentation."""
        return 0.0 if self._samples_points or self.init_embeddings == "normal" else 0.4

    @property
    def needs(self) -> tuple[str, ...]:
        """See [`PromptConfig.needs`]."""
        return ("points",) if self._samples_points else ()

    def prompt_encoders(self, is_new: bool, is_trainable: bool) -> tuple[str, ...]:
        """See [`PromptConfig.prompt_encoders`]."""
        return ("spatial",) * (is_new and self._samples_points) + ("text",) * (is_new and self.starts_from_words)

    @property
    def starts_from_words(self) -> bool:
        """See [`PromptConfig.starts_from_words`]."""
        return self.semantic_source == "words"

    @property
    def _samples_points(self) -> bool:
        return self.spatial_source == "point_grid" and any(self.learned_parts(SPATIAL))

    @property
    def calibrates(self) -> bool:
        """Whether classes have a scale or a bias of their own."""
        return self.semantic_scale or self.semantic_bias

    @property
    def has_deep_prompts(self) -> bool:
        """Whether states in the decoder have offsets."""
        return self.deep_prompts != "none"

    def learns(self, kind: str) -> bool:
        """See [`PromptConfig.learns`]."""
        others = self.calibrates if kind == SEMANTIC else self.has_deep_prompts or self.class_masks
        return any(self.learned_parts(kind)) or others

    def learned_parts(self, kind: str) -> LearnedParts:
        """What is learned of the `"spatial"` or the `"semantic"` prompts."""
        return LearnedParts(getattr(self, f"{kind}_embedding"), getattr(self, f"{kind}_weight"))
