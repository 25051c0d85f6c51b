"""What an adapter has learned: its weights, its words, how far it moved, what its prompts do, where it fails."""

from .run import explain_adapter

__all__ = ["explain_adapter"]
