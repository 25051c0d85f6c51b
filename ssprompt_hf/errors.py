"""Errors a user can cause and mend. All derive from `SSPromptError`, a `ValueError`, and say what to do about it."""

import os


class SSPromptError(ValueError):
    """Base of every error that this package raises for a bad input file, name or setting."""


class UnknownNameError(SSPromptError):
    """A base model or adapter name that is not known, or that has no file to be found."""


class CheckpointError(SSPromptError):
    """A checkpoint is missing, damaged, unsafe or of another architecture, or the output cannot be written there."""


class DownloadError(SSPromptError, OSError):
    """A file cannot be had from the Hub: no connection, no access, or it is not there."""


class UploadError(SSPromptError, OSError):
    """A file cannot be sent to the Hub: no connection, no right to write there, or a name that is none."""


class StorageError(SSPromptError, OSError):
    """A file cannot be written because the disk is full; `errno` and `filename` are those of an `OSError`."""

    def __init__(self, errno: int, strerror: str, filename: str | os.PathLike):
        OSError.__init__(self, errno, strerror, os.fspath(filename))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class AdapterError(SSPromptError):
    """An adapter's configuration contradicts itself or the base model, or its files are missing or damaged."""


class ExportError(SSPromptError):
    """A model cannot be written in another form: a part of it, or a package, is in the way."""


class DatasetError(SSPromptError):
    """Base of the errors about data sets: folders, class lists, images and labels."""


class ClassListError(DatasetError):
    """A class file is missing or malformed, or the class list contradicts itself."""


class NoImagesError(DatasetError):
    """A data set, folder or split holds no images, or is not there."""


class MissingLabelError(DatasetError):
    """An image has no label (or no instance map, where the data set has them)."""


class LabelFormatError(DatasetError):
    """A label file is not a map of class ids: a photograph, a lossy JPEG, or colours nobody declared."""


class ImageSizeError(DatasetError):
    """An image and its label differ in size."""


class LabelIdError(DatasetError):
    """A label holds a class id that is neither in the class list nor ignored."""


class UnreadableFileError(DatasetError):
    """An image or label file is truncated, empty or in a format that cannot be decoded."""


class MissingClassError(DatasetError):
    """A class of the class list occurs in no label of the training data."""


class TooFewImagesError(DatasetError):
    """Fewer images than shots: overall, or for one class."""
