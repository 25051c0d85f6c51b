"""Procedurally drawn street scenes with labels, in five weather conditions: data without files."""

from .dataset import StreetSceneSource, load_street_scenes
from .source import (
    CUSTOM_CLASSES,
    CUSTOM_COLORS,
    CUSTOM_THINGS,
    STREET_CLASSES,
    STREET_COLORS,
    STREET_CONDITIONS,
    STREET_LABEL_SETS,
    STREET_SPLITS,
    STREET_SYNONYMS,
    STREET_THINGS,
    StreetScenes,
)

__all__ = [
    "CUSTOM_CLASSES",
    "CUSTOM_COLORS",
    "CUSTOM_THINGS",
    "STREET_CLASSES",
    "STREET_COLORS",
    "STREET_CONDITIONS",
    "STREET_LABEL_SETS",
    "STREET_SPLITS",
    "STREET_SYNONYMS",
    "STREET_THINGS",
    "StreetSceneSource",
    "StreetScenes",
    "load_street_scenes",
]
