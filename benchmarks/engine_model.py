"""A llama-server in simulated time: decodes all running slots together, step by step, and remembers each slot's KV.

A step computes one token of every running answer and what its batch has room for of the prompts. Its time comes from
the engine's measured curve. A slot's KV is used again only under the same expert: all of it when the conversation
returns, else the beginning that the expert's prompts share.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator import Arrival, Simulator

from gateway.actions import Lease

__all__ = ["Engine", "EngineSimulator", "Job"]


@dataclass(frozen=True)
class Engine:
    """What a machine does. The defaults are not a measured curve: they are drawn through what was seen of SmolLM2-135M
    Q4_1 on two cores (some 90 tokens/s with one answer, 130 with four, 165 to 180 with eight, 300 prompt tokens/s)."""

    step_s: tuple[float, ...] = (0.0108, 0.0165, 0.0205, 0.0255, 0.030, 0.0345, 0.039, 0.0435)
    """Seconds of a step that decodes 1, 2, … answers; beyond, as the last two differ."""
    prompt_tokens_s: float = 300.0
    swap_s: float = 0.005
    shared_tokens: int = 28
    batch_tokens: int = 256
    unified: bool = False
    """One pool of KV. Apart, only neighbouring slots are decoded together, and each group costs a step of its own."""

    def groups(self, slots: list[int]) -> list[int]:
        """How many are decoded together, one step after another."""
        if self.unified or not slots:
            return [len(slots)]
        starts = [n for n, slot in enumerate(sorted(slots)) if slot - 1 not in slots]
        return [end - start for start, end in zip(starts, [*starts[1:], len(slots)], strict=True)]

    def step(self, decoding: int, prompt_tokens: int) -> float:
        known = self.step_s
        if decoding > len(known):
            slope = known[-1] - known[-2]
            decode_s = known[-1] + slope * (decoding - len(known))
        else:
            decode_s = known[decoding - 1] if decoding else 0.0
        return decode_s + prompt_tokens / self.prompt_tokens_s


@dataclass(frozen=True)
class Job(Arrival):
    """An arrival by its work: tokens to read, of which a returning conversation has ``reusable`` in its slot."""

    prompt_tokens: int = 44
    reusable: int = 0
    tokens: int = 48


@dataclass
class _Answer:
    request_id: int
    slot: int
    prompt_left: int
    left: int


@dataclass
class EngineSimulator(Simulator):
    """``Simulator`` whose answers take as long as ``engine`` needs for all that run together."""

    engine: Engine = field(default_factory=Engine)
    computed_tokens: int = 0
    reused_tokens: int = 0
    reusable_tokens: int = 0
    decoded_tokens: int = 0
    busy_s: float = 0.0
    _answers: dict[str, list[_Answer]] = field(default_factory=dict)
    _kv: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    _stepping: set[str] = field(default_factory=set)

    def _serve(self, lease: Lease) -> None:
        request = lease.request
        job = self._arrivals[request.id]
        assert isinstance(job, Job)
        slot = (lease.backend, lease.slots[0])
        expert, conversation = self._kv.get(slot, ("", ""))
        reused = 0
        if expert == request.expert:
            own = conversation == request.conversation
            reused = max(job.reusable, self.engine.shared_tokens) if own else self.engine.shared_tokens
        self._kv[slot] = (request.expert, request.conversation)
        reused = min(reused, job.prompt_tokens - 1)
        self.reused_tokens += reused if job.reusable else 0
        self.reusable_tokens += job.reusable
        self.computed_tokens += job.prompt_tokens - reused
        answer = _Answer(request.id, slot[1], job.prompt_tokens - reused, job.tokens)
        self._answers.setdefault(lease.backend, []).append(answer)
        self._step(lease.backend)

    def _step(self, name: str) -> None:
        running = [a for a in self._answers.get(name, []) if a.request_id in self.granted]
        self._answers[name] = running
        if name in self._stepping or not running:
            return
        decoding = [a for a in running if not a.prompt_left]
        room = self.engine.batch_tokens - len(decoding)
        read: list[tuple[_Answer, int]] = []
        for answer in running:
            if answer.prompt_left and room:
                part = min(room, answer.prompt_left)
                read.append((answer, part))
                room -= part
        groups = self.engine.groups([answer.slot for answer in decoding])
        seconds = sum(self.engine.step(together, 0) for together in groups)
        seconds += self.engine.step(0, sum(part for _, part in read))
        self.busy_s += seconds
        self._stepping.add(name)
        self._later(seconds, "stepped", name, decoding, read)

    def _happen(self, kind: str, facts: tuple[object, ...]) -> None:
        if kind != "stepped":
            super()._happen(kind, facts)
            return
        name, decoding, read = facts
        assert isinstance(name, str)
        assert isinstance(decoding, list)
        assert isinstance(read, list)
        self._stepping.discard(name)
        ended = []
        for answer, part in read:
            answer.prompt_left -= part
            if not answer.prompt_left:
                decoding = [*decoding, answer]  # the step that reads the last of a prompt gives the first token
        for answer in decoding:
            answer.left -= 1
            self.decoded_tokens += 1
            if answer.left <= 0:
                ended.append(answer.request_id)
        for request_id in ended:
            if request_id in self.granted:
                self._end(request_id, "served")
        self._step(name)
