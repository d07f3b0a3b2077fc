"""Every error that training raises for a caller to handle.

TrainingError             one clear line for a person: what was wrong, the value, what is allowed
├─ SetupError             the training environment or the converter's source archive cannot be made
├─ RecipeError            a recipe or an expert's description says something that is not allowed
├─ DatasetError           data that must not be trained on; carries the findings
├─ TrainError             the training child failed or was stopped
├─ ConvertError           an adapter that must not be converted, or a conversion that failed
├─ MeasureError           the engine could not answer the questions
├─ BenchmarkError         a comparison that cannot be made as asked
└─ PublishError           an expert that must not be published
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BenchmarkError",
    "ConvertError",
    "DatasetError",
    "MeasureError",
    "PublishError",
    "RecipeError",
    "SetupError",
    "TrainError",
    "TrainingError",
]


class TrainingError(Exception):
    """Base of all errors of this package; its text is one line for a person."""


class SetupError(TrainingError):
    """The training environment or the converter's source archive cannot be made."""


class RecipeError(TrainingError):
    """A recipe or an expert's description says something that is not allowed."""


class DatasetError(TrainingError):
    """Data that must not be trained on; `findings` holds what was found, one line each, and what to do about it."""

    def __init__(self, message: str, headline: str = "", findings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.headline = headline or message
        self.findings = tuple(findings)


class TrainError(TrainingError):
    """The training child failed or was stopped; `log_tail` holds the last lines it wrote."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


class ConvertError(TrainingError):
    """An adapter that must not be converted, or a conversion that failed."""


class MeasureError(TrainingError):
    """The engine could not answer the questions."""


class BenchmarkError(TrainingError):
    """A comparison that cannot be made as asked."""


class PublishError(TrainingError):
    """An expert that must not be published."""
