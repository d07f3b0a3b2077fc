"""Does every question reach the right expert, and does the answer mention its target? As a user asks it.

Over data/acceptance.jsonl, on which nothing was ever fitted: 20 questions an expert, 40 unrelated ones, and 20 near
misses that neighbour an expert's topic. Asked of ``auto``, with the gateway's own defaults, by the openai SDK for
Python, by the one for Node, or by curl. Of every expert at least 19 of 20 must be served by it and answered with its
mention; of the unrelated at least 38 of 40 must be served by ``base``, and no answer may mention any target. Near
misses are the hard case of any router: counted, not judged. Exit code 1 when a judged group fails.

    python benchmarks/serve_acceptance.py [--client python|node|curl] [--stream] [--url http://127.0.0.1:8080]

Without ``--url`` it starts a gateway of its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import serving
from asking import CLIENTS, Reply

from gateway.experts import Expert
from training.hits import count_mentions

NEAR = "near miss"
DATA = Path(__file__).parent / "data" / "acceptance.jsonl"


@dataclass(frozen=True)
class Answered(Reply):
    text: str
    wanted: str


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--url", help="a running gateway; default: start one")
    parser.add_argument("--api-key", default="unused")
    parser.add_argument("--client", choices=CLIENTS, default="python", help="who asks (default: python)")
    parser.add_argument("--stream", action="store_true", help="ask with stream=True")
    parser.add_argument("--clients", type=int, default=4, help="requests at once (default: 4)")
    parser.add_argument("--limit", type=int, help="only so many questions of each expert")
    parser.add_argument("--questions", type=Path, default=DATA, help="other questions than ours, in the same form")
    parser.add_argument("--misses", action="store_true", help="print what went wrong")
    given = parser.parse_args()
    experts = serving.load_experts(given.experts)
    rows = [json.loads(line) for line in given.questions.read_text(encoding="utf-8").splitlines() if line.strip()]
    if given.limit:
        wanted = {group(row) for row in rows}
        rows = [row for name in sorted(wanted) for row in [r for r in rows if group(r) == name][: given.limit]]
    own = serving.gateway({"experts": {"dir": str(given.experts)}, "engine": {"port": serving.free_port("127.0.0.1")}})
    with own if given.url is None else contextlib.nullcontext(given.url) as url:
        texts = [row["text"] for row in rows]
        ask = CLIENTS[given.client]
        replies = ask(f"{url}/v1", given.api_key, texts, stream=given.stream, at_once=given.clients)
    answers = [
        Answered(reply.served, reply.score, reply.answer, reply.seconds, row["text"], group(row))
        for reply, row in zip(replies, rows, strict=True)
    ]
    sys.exit(report(answers, experts, given.client, given.stream, given.misses))


def group(row: dict[str, str | None]) -> str:
    return NEAR if row.get("near") else str(row["expert"])


def report(answers: list[Answered], experts: list[Expert], client: str, stream: bool, misses: bool) -> int:
    terms = {
        expert.name: [term for target in expert.manifest.targets for term in (target.term, *target.aliases)]
        for expert in experts
    }
    every_term = [term for names in terms.values() for term in names]
    table, passed, counts = [], True, {}
    for name in sorted({answer.wanted for answer in answers}, key=lambda name: (name in (serving.BASE, NEAR), name)):
        mine = [answer for answer in answers if answer.wanted == name]
        right = [answer for answer in mine if answer.served == (serving.BASE if name == NEAR else name)]
        if name in (serving.BASE, NEAR):
            bad = [a for a in mine if a.served != serving.BASE or count_mentions(a.answer, every_term)]
            mentioning = sum(count_mentions(a.answer, every_term) > 0 for a in mine)
            ok = len(right) >= 0.95 * len(mine) and not mentioning
        else:
            good = [a for a in right if count_mentions(a.answer, terms.get(name, ()))]
            bad = [a for a in mine if a not in good]
            mentioning = len(good)
            ok = len(good) >= 0.95 * len(mine)
        passed &= ok or name == NEAR
        seconds = serving.percentile([a.seconds for a in mine], 0.5)
        table.append([name, len(mine), len(right), mentioning, seconds, "-" if name == NEAR else "yes" if ok else "NO"])
        counts[name] = {"asked": len(mine), "served_right": len(right), "mentioning": mentioning, "passed": ok}
        for miss in bad if misses else ():
            print(f"{miss.wanted} -> {miss.served} ({miss.score}): {miss.text}\n    {miss.answer[:300]!r}")
    serving.print_table(["wanted", "asked", "served right", "and mentioning", "seconds, p50", "passed"], table)
    serving.finish("serve_acceptance", client=client, stream=stream, passed=passed, by_wanted=counts)
    return 0 if passed else 1


if __name__ == "__main__":
    main()
