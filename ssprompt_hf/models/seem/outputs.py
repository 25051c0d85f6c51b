"""What SEEM and its parts return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from .spatial_prompts import SeemSpatialPrompts


@dataclass
class SeemImageFeatures(ModelOutput):
    """All that the decoder needs to know of a batch of images; independent of any prompt.

    Args:
        mask_features (`(B, mask_feature_size, h, w)`):
            Masks are products of these with the mask embeddings of the queries.
        multi_scale_features (three tensors `(B, feature_size, h_i, w_i)`, coarsest first):
            What the queries attend to.
        key_states, value_states (`decoder_layers` tensors `(B, heads, h_i * w_i, head_dim)`, *optional*):
            The projections of these features in every layer. Computed on first use, kept for further prompts.
        attention_features (three tensors `(B, mask_feature_size, h_i * w_i)`, *optional*):
            The mask features at the three scales, from which the layers' attention masks are made.
        padded_size (`(height, width)`): of the padded images, in pixels.
    """

    mask_features: torch.Tensor | None = None
    multi_scale_features: tuple[torch.Tensor, ...] | None = None
    key_states: tuple[torch.Tensor, ...] | None = None
    value_states: tuple[torch.Tensor, ...] | None = None
    attention_features: tuple[torch.Tensor, ...] | None = None
    padded_size: tuple[int, int] | None = None

    def expand(self, batch_size: int) -> "SeemImageFeatures":
        """The same image for every one of `batch_size` prompts, without copying.

        Raises:
            ValueError: there are several images, and not `batch_size` of them.
        """
        images = len(self.mask_features)
        if images == batch_size:
            return self
        if images != 1:
            raise ValueError(
                f"prompts for {batch_size} images were passed with {images} images: pass one set of prompts an image, "
                "or any number of sets with one image"
            )

        def expand(value):
            if isinstance(value, tuple):
                return tuple(expand(item) for item in value)
            if not isinstance(value, torch.Tensor):
                return value
            return value.expand(batch_size, *value.shape[1:])

        return SeemImageFeatures(**{name: expand(value) for name, value in self.items()})


@dataclass
class SeemQueryStates(ModelOutput):
    """What the decoder says of one set of queries after a layer.

    Args:
        mask_embeds (`(B, Q, mask_feature_size)`): their product with the mask features gives the mask logits.
        class_embeds (`(B, Q, projection_dim)`): compared with text embeddings by cosine; not normalised.
    """

    mask_embeds: torch.Tensor | None = None
    class_embeds: torch.Tensor | None = None


@dataclass
class SeemModelOutput(ModelOutput):
    """
    Args:
        object_states (`SeemQueryStates` of `(B, Q, ...)`, *optional*):
            Answers of the object queries; missing if only phrases or strokes were asked about.
        auxiliary_states (tuple of `SeemQueryStates`, *optional*):
            The same before each decoder layer, if `output_auxiliary_predictions`.
        phrase_states (`SeemQueryStates`, *optional*), phrase_embeds (`(B, phrases, projection_dim)`, *optional*):
            Answers of the queries that attended to the phrases, and the embeddings of the phrases.
        spatial_states (`SeemQueryStates`, *optional*), spatial_prompts (`SeemSpatialPrompts`, *optional*):
            Answers of the queries that attended to strokes, and the embeddings of the strokes.
        image_features (`SeemImageFeatures`):
            Can be passed to further calls in place of `pixel_values`.
        hidden_states (`decoder_layers + 1` tensors `(B, Q, hidden_dim)`, *optional*):
            The object queries before the first decoder layer and after each, if `output_hidden_states`.
        attentions (`decoder_layers` tensors `(B, heads, Q, Q)`, *optional*),
        cross_attentions (`decoder_layers` tensors `(B, heads, Q, h_i * w_i)`, *optional*):
            How much each object query looks at the others (and at the tokens of points), and at the image, if
            `output_attentions`.
    """

    object_states: SeemQueryStates | None = None
    auxiliary_states: tuple[SeemQueryStates, ...] | None = None
    phrase_states: SeemQueryStates | None = None
    phrase_embeds: torch.Tensor | None = None
    spatial_states: SeemQueryStates | None = None
    spatial_prompts: SeemSpatialPrompts | None = None
    image_features: SeemImageFeatures | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class SeemForUniversalSegmentationOutput(ModelOutput):
    """
    Masks are logits at the resolution of the mask features (a quarter of the padded image in the published models).

    Args:
        loss (scalar, *optional*):
            See `mask_labels` of `forward`.
        class_queries_logits (`(B, Q, classes + 1)`):
            Class scores of the object queries; the last class is "no object".
        masks_queries_logits (`(B, Q, h, w)`):
            Masks of the object queries.
        class_masks_logits (`(B, classes, h, w)`, *optional*), class_masks_shares (`(classes,)`, *optional*):
            Masks of whole classes, and the share that each has of its class's score; see `SeemClassMasks`.
        auxiliary_predictions (tuple of dicts with the first two names above, *optional*):
            The predictions before each decoder layer.
        grounding_masks_logits (`(B, phrases, h, w)`, *optional*), grounding_scores (`(B, phrases)`, *optional*):
            The mask that fits each phrase best, and the (scaled) cosine similarity of its query.
        spatial_masks_logits (`(B, objects, h, w)`, *optional*):
            The mask of each object given by strokes. Pass it as `previous_masks` in the next round.
        class_queries_embeds (`(B, Q, projection_dim)`), mask_queries_embeds (`(B, Q, mask_feature_size)`):
            What the logits are made of.
        image_features (`SeemImageFeatures`):
            Can be passed to further calls in place of `pixel_values`.
        padded_size (`(height, width)`):
            Of the padded images, in pixels.
        image_sizes, original_sizes (`(B, 2)`, *optional*):
            As passed; post-processing cuts the padding off by them.
        hidden_states, attentions, cross_attentions (*optional*):
            See [`SeemModelOutput`].
    """

    loss: torch.Tensor | None = None
    class_queries_logits: torch.Tensor | None = None
    masks_queries_logits: torch.Tensor | None = None
    class_masks_logits: torch.Tensor | None = None
    class_masks_shares: torch.Tensor | None = None
    auxiliary_predictions: tuple[dict, ...] | None = None
    grounding_masks_logits: torch.Tensor | None = None
    grounding_scores: torch.Tensor | None = None
    spatial_masks_logits: torch.Tensor | None = None
    class_queries_embeds: torch.Tensor | None = None
    mask_queries_embeds: torch.Tensor | None = None
    image_features: SeemImageFeatures | None = None
    padded_size: tuple[int, int] | None = None
    image_sizes: torch.Tensor | None = None
    original_sizes: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


def in_order(output: ModelOutput) -> ModelOutput:
    """The same with its fields in the order in which the class names them, and not in that in which they were set."""
    return type(output)(**output)
