"""Spark ML models that are a bundle: its files held in memory, written beside the parameters and read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter

from sparton import storage

BUNDLE_FOLDER = "bundle"


class BundleModel(Protocol):
    """A model with the content of a bundle's files by name."""

    @property
    def files(self) -> Mapping[str, bytes]: ...  # noqa: D102


ModelT = TypeVar("ModelT")


def read_files(folder: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return the content of files by name."""
    found: dict[str, bytes] = {}
    for name in names:
        with storage.open_file(storage.join(folder, name)) as stream:
            found[name] = stream.read()
    return found


def write_files(folder: str, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that is there."""
    for name, content in files.items():
        with storage.open_file(storage.join(folder, name), "wb") as stream:
            stream.write(content)


class BundleWriter(MLWriter):
    """Writes the parameters of a model, and its bundle into a folder beside them."""

    def __init__(self, model: BundleModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:  # noqa: N802 - called by Spark ML
        """Write both."""
        model: Any = self._model
        DefaultParamsWriter.saveMetadata(model, path, self.sc)
        folder = storage.join(path, BUNDLE_FOLDER)
        storage.make_dirs(folder)
        write_files(folder, self._model.files)


class BundleReader(MLReader[Any], Generic[ModelT]):
    """Reads what :class:`BundleWriter` wrote, by the model's ``from_bundle``."""

    def __init__(self, cls: type[ModelT]) -> None:
        super().__init__()
        self._class = cls

    def load(self, path: str) -> ModelT:
        """Return the model with the bundle and the parameters that were written."""
        metadata: dict[str, Any] = DefaultParamsReader.loadMetadata(path, self.sc)
        kind: Any = self._class
        model = kind.from_bundle(storage.join(path, BUNDLE_FOLDER))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        found: ModelT = model
        return found
