"""Draws that hardly change when an expert is added: a text's lot hangs on the text and the seed alone.

What is drawn and paired when a router is fitted must be embedded, and what was embedded before is known. With lots,
a fit after a publish pairs the other experts' texts nearly as it did before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum, auto

import numpy as np
import numpy.typing as npt

from router.classifier import Indices


class Draw(IntEnum):
    """What is drawn: draws of different kinds have nothing to do with each other."""

    FOLD = auto()
    OPENED = auto()
    NEIGHBOURS = auto()
    NEGATIVES = auto()
    SWITCHES = auto()
    ANCHOR = auto()
    ROUTE = auto()


Lots = npt.NDArray[np.uint64]


def draw_lots(texts: Sequence[str], seed: int) -> Lots:
    """Return a number for each text, uniform over 64 bits; equal texts have equal ones."""
    key = seed.to_bytes(8, "little", signed=True)
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key) for text in texts)
    return np.frombuffer(b"".join(digest.digest() for digest in digests), dtype="<u8")


def deal(lots: Lots, count: int, draw: Draw) -> Indices:
    """Return one of `count` hands for each lot, about as many each."""
    return (_mixed(lots, draw) % np.uint64(count)).astype(np.int64)


def shuffle(rows: Indices, lots: Lots, draw: Draw) -> Indices:
    """Return the rows in an order that hangs on their lots."""
    shuffled: Indices = rows[np.argsort(_mixed(lots[rows], draw), kind="stable")]
    return shuffled


def choose(lot: np.uint64, rows: Indices, lots: Lots, draw: Draw) -> int:
    """Return the one of the rows that goes with a lot: of more rows the same, unless one of the new ones wins.

    Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
    Transactions on Networking 6, 1998.
    """
    (own,) = _mixed(np.array([lot]), draw)  # so that two that choose each other do so by chance
    return int(rows[np.argmax(_mixed(lots[rows] ^ own, draw))])


def _mixed(lots: Lots, draw: Draw) -> Lots:
    """Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014: splitmix64's finaliser."""
    mixed = lots ^ np.uint64(draw)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
