"""Errors of the router.

RouterError            bad input to fit, evaluate or decide
├─ ArtifactError       a saved router that is missing, corrupt or of another format
└─ EmbeddingError      the encoder could not be built, loaded or run
"""

from __future__ import annotations


class RouterError(Exception):
    """A router could not be fitted or used as asked; the message names the value and what is allowed."""


class ArtifactError(RouterError):
    """A saved router cannot be read; fitting again on the same examples replaces it."""


class EmbeddingError(RouterError):
    """The encoder is missing, damaged, unfaithful to its source, or failed on a text."""
