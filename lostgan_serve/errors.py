"""The error tree. The command line prints any of these as one line and exits with `exit_code`."""

from __future__ import annotations

import importlib
from types import ModuleType


class LostganError(Exception):
    """Base of all errors that a user can mend; the message names the place, the field and the fix."""

    exit_code = 2


class LayoutError(LostganError):
    """A layout that is not valid, or that the model at hand cannot generate."""


class VocabularyError(LostganError):
    """An unknown vocabulary, or one that cannot be used."""


class CheckpointError(LostganError):
    """A checkpoint that is missing, truncated, foreign or does not fit its variant."""


class TrainingError(LostganError):
    """A training run that cannot start as asked."""


class DivergedError(TrainingError):
    """A training run that cannot go on: its losses stay not finite."""

    exit_code = 1


class EvaluationError(LostganError):
    """A measurement that cannot be made as asked: an unknown metric, too few images, weights that are not there."""


class DataError(LostganError):
    """Training data that is missing, of no known format, or broken."""


class InputError(LostganError):
    """A file or folder that is missing or that may not be read."""


class ModelError(LostganError):
    """A model or model repository that is missing, broken, not ready or not what was asked for."""


class RequestError(ModelError):
    """Tensors that a model refuses. The same request fails again; others may not."""


class DeviceError(ModelError):
    """A machine that cannot run a model: no such GPU or instruction, no memory."""


class ServerError(LostganError):
    """A server that cannot be started, or that answers otherwise than it should."""


class ServerUnavailableError(ServerError):
    """A server that does not answer, or takes no more for now. The same request may succeed later."""


class OutputError(LostganError):
    """An output that cannot be written."""


class MissingExtraError(LostganError):
    """An optional package that this command needs is not installed."""


class ParityError(LostganError):
    """An exported model whose outputs differ from the PyTorch generator's by more than the tolerance."""

    exit_code = 1


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module; raises MissingExtraError naming the extra of lostgan-serve that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise MissingExtraError(
            f"this needs the package {root!r} ({error}); install it with: pip install 'lostgan-serve[{extra}]' "
            f"(in a clone: pip install '.[{extra}]')"
        ) from error
