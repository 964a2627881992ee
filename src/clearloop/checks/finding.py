"""What a check comes to: a verdict with its reasons, and the report of all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["passed", "note", "warning", "failed", "skipped"]
ORDER: tuple[Status, ...] = ("passed", "failed", "warning", "note", "skipped")  # in a summary


@dataclass(frozen=True)
class Verdict:
    """`found`: what was seen, with numbers; `meaning` and `remedy` are empty where there is nothing to do."""

    status: Status
    found: str
    meaning: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Finding(Verdict):
    """A verdict under the name of its check."""

    name: str = ""


def passed(found: str) -> Verdict:
    """All is well; `found` says what was seen."""
    return Verdict("passed", found)


def skipped(why: str) -> Verdict:
    """The question does not arise here, or cannot be answered."""
    return Verdict("skipped", why)


def note(found: str, meaning: str, remedy: str) -> Verdict:
    """Worth knowing, and quite possibly meant."""
    return Verdict("note", found, meaning, remedy)


def warning(found: str, meaning: str, remedy: str) -> Verdict:
    """Training will work, but probably worse than it could."""
    return Verdict("warning", found, meaning, remedy)


def failed(found: str, meaning: str, remedy: str) -> Verdict:
    """Something is wrong: what training then shows is not what it seems."""
    return Verdict("failed", found, meaning, remedy)


@dataclass(frozen=True, repr=False)
class CheckReport:
    """All findings, in the order of the checks; printed, a line each."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed; warnings do not count."""
        return not self.of("failed")

    def of(self, *statuses: Status) -> tuple[Finding, ...]:
        """The findings of some statuses."""
        return tuple(finding for finding in self.findings if finding.status in statuses)

    def __getitem__(self, name: str) -> Finding:
        """The finding of a check; KeyError for a name that is none."""
        return {finding.name: finding for finding in self.findings}[name]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Plain data: name, status, found, meaning, remedy of each."""
        return [asdict(finding) for finding in self.findings]

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.status:<8} {finding.name}: {finding.found}")
            lines += [f"{'':<9}{text}" for text in (finding.meaning, finding.remedy) if text]
        return "\n".join([*lines, self.summary])

    def __repr__(self) -> str:
        return f"CheckReport({self.summary})"

    @property
    def summary(self) -> str:
        """How many of each status there are.

        >>> CheckReport((Finding("passed", "", name="a"), Finding("note", "", name="b"))).summary
        '1 passed, 1 note'
        """
        counts = {status: len(self.of(status)) for status in ORDER}
        return ", ".join(counted(count, status) for status, count in counts.items() if count)


def counted(count: int, status: str) -> str:
    """A count with its word.

    >>> counted(2, "warning"), counted(1, "warning"), counted(3, "failed")
    ('2 warnings', '1 warning', '3 failed')
    """
    return f"{count} {status}{'s' if count > 1 and status in ('warning', 'note') else ''}"
