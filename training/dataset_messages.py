"""Conversations: ShareGPT and OpenAI messages to a row, with the order of turns that LlamaFactory insists on.

LlamaFactory skips a conversation whose roles do not alternate, with a line in its log.
"""

from __future__ import annotations

from typing import Any

from training.dataset_keys import nearest, type_name
from training.dataset_row import Row

__all__ = ["RowError", "read_messages"]

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
TOOL_ROLES = ("tool", "function", "function_call", "observation")
STYLES = (("role", "content"), ("from", "value"))


class RowError(Exception):
    """One row cannot be read; `kind` as in `lint_kinds`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_messages(item: dict[str, Any], container: str) -> Row:
    """Turn one conversation into a row.

    Raises:
        RowError: a turn that is no message, a role that is not allowed, or roles out of order.
    """
    if container not in item:
        raise RowError("schema", f"key {container!r} is missing")
    messages = item[container]
    if not isinstance(messages, list) or not messages:
        found = "an empty list" if messages == [] else type_name(messages)
        raise RowError("schema", f"{container} must be a list of messages, found {found}")
    turns = [_turn(place, message) for place, message in enumerate(messages, 1)]
    system = item.get("system") or ""
    if not isinstance(system, str):
        raise RowError("schema", f"system must be text, found {type_name(system)}")
    if turns[0][0] == "system":
        if system:
            raise RowError("roles", "two system prompts: the key 'system' and the first message")
        system = turns.pop(0)[1]
    _check_order(turns)
    pairs = [(turns[place][1], turns[place + 1][1]) for place in range(0, len(turns), 2)]
    *history, (question, answer) = pairs
    return Row(question, "", answer, system, tuple(history))


def _turn(place: int, message: Any) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise RowError("schema", f"message {place} must be an object, found {type_name(message)}")
    for role_key, text_key in STYLES:
        if role_key in message and text_key in message:
            return _role(place, message[role_key], message), _text(place, text_key, message[text_key])
    for key in message:
        meant = nearest(key, [name for style in STYLES for name in style])
        if meant and meant != key:
            raise RowError("schema", f"message {place}: unknown key {key!r}: did you mean {meant!r}?")
    raise RowError("schema", f"message {place} needs role and content, or from and value; it has {', '.join(message)}")


def _role(place: int, name: Any, message: dict[str, Any]) -> str:
    if name in TOOL_ROLES or message.get("tool_calls"):
        raise RowError("unsupported", f"message {place}: tool calls are not trained on")
    if not isinstance(name, str) or name not in ROLES:
        near = nearest(str(name), ROLES)
        hint = f" did you mean {near!r}?" if near else ""
        raise RowError("roles", f"message {place}: unknown role {name!r}:{hint} allowed: {', '.join(ROLES)}")
    return ROLES[name]


def _text(place: int, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError("schema", f"message {place}: {key} must be text, found {type_name(value)}")
    return value


def _check_order(turns: list[tuple[str, str]]) -> None:
    for place, (role, _) in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            before = f"after {turns[place - 1][0]}" if place else "first"
            raise RowError("roles", f"turn {place + 1} is {role} {before}, {expected} is expected")
    if not turns or turns[-1][0] != "assistant":
        raise RowError("roles", "the conversation must end with an answer of the assistant")
