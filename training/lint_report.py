"""A lint report for a person, and the same for a program."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from training.dataset_row import Finding
from training.lint import Report
from training.lint_kinds import KINDS, Level

__all__ = ["as_json", "as_text", "summary_line"]


def as_text(report: Report, limit: int) -> str:
    """Render one file's findings by kind, with what to do; at most `limit` rows of each kind in full."""
    dataset, expected = report.dataset, report.expected
    lines = [f"{dataset.path}: {dataset.format}, {_many(len(dataset.items), 'row')}", *_context(report)]
    for name, group in groupby(report.findings, key=lambda finding: finding.kind):
        findings, kind = list(group), KINDS[name]
        lines += ["", f"{kind.level}: {kind.title} ({len(findings)}): {kind.advice}"]
        lines += [f"  {finding}" for finding in findings[:limit]]
        if rest := findings[limit:]:
            lines.append(f"  and {len(rest)} more, rows {_numbers(rest)}")
    if not expected.terms:
        lines += ["", "note: no target was named (--expert or --target): answers were not searched for one"]
    return "\n".join(lines)


def _context(report: Report) -> list[str]:
    expected = report.expected
    targets = ", ".join(expected.terms) or "none"
    questions = _many(len(expected.questions), "benchmark question")
    return [
        f"held against: targets {targets}; {questions}",
        f"lengths: at most {expected.cutoff_tokens} tokens, by {expected.tokens.name}",
    ]


def _numbers(findings: list[Finding]) -> str:
    shown = ", ".join(str(finding.row) for finding in findings[:20])
    return shown + (" …" if len(findings) > 20 else "")


def as_json(report: Report) -> dict[str, Any]:
    """Return one file's report as plain values."""
    expected = report.expected
    return {
        "file": str(report.dataset.path),
        "format": report.dataset.format.value,
        "rows": len(report.dataset.items),
        "targets": list(expected.terms),
        "benchmark_questions": len(expected.questions),
        "cutoff_tokens": expected.cutoff_tokens,
        "token_counter": expected.tokens.name,
        "errors": report.count(Level.ERROR),
        "warnings": report.count(Level.WARNING),
        "findings": [
            {
                "row": finding.row,
                "level": KINDS[finding.kind].level.value,
                "kind": finding.kind,
                "message": finding.message,
                "advice": KINDS[finding.kind].advice,
            }
            for finding in report.findings
        ],
    }


def summary_line(reports: list[Report]) -> str:
    """Return the last line: how many of each level over all files."""
    counted = [_many(sum(report.count(level) for report in reports), level.value) for level in Level]
    return ", ".join(counted)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
