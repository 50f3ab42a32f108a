"""What `nbce-rag index` says of files that it went through."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from ..documents.readers import EXTRA, lacking_packages
from .console import say

if TYPE_CHECKING:
    from ..index import SyncReport

__all__ = ["say_report"]

_SHOWN_TYPES = 6


def say_report(report: SyncReport, notes: list[str], size: int) -> None:
    """Writes problems and what changed to stderr, and counts to stdout.

    Args:
        report: What was done.
        notes: Further warnings.
        size: Passages that the index has now.
    """
    for reasons in report.files_failed.values():
        for reason in reasons.splitlines():
            say(f"failed: {reason}")
    for warning in (*report.warnings, *notes):
        say(f"warning: {warning}")
    _say_changes(report)
    typer.echo(
        f"Files: {_counts(report)}. Passages: {report.passages_added} added, "
        f"{report.passages_removed} removed, {size} in the index."
    )


def _say_changes(report: SyncReport) -> None:
    """What a person may not have expected, on stderr."""
    for path, old in report.files_moved.items():
        say(f"moved: {old} -> {path}")
    for path in report.files_removed:
        say(f"removed: {path} is {'excluded' if os.path.lexists(path) else 'gone'}")
    if report.files_missing:
        examples = ", ".join(report.files_missing[:3]) + (", ..." if len(report.files_missing) > 3 else "")
        say(f"{len(report.files_missing)} files that are gone stay in the index: {examples}")
    if report.excluded:
        say(f"excluded: {report.excluded} files and folders")
    if count := sum(report.other_types.values()):
        types = [
            f"{suffix or 'no suffix'} ({files})" if files > 1 else suffix or "no suffix"
            for suffix, files in report.other_types.items()
        ]
        more = ", ..." if len(types) > _SHOWN_TYPES else ""
        files = "1 file of another type" if count == 1 else f"{count} files of other types"
        say(f"{files} passed over: {', '.join(types[:_SHOWN_TYPES])}{more}")
        if lacking := [suffix for suffix in report.other_types if suffix in lacking_packages()]:
            say(f"{', '.join(lacking)} would be read with: pip install '{EXTRA}'")


def _counts(report: SyncReport) -> str:
    """How many files there were of each kind; kinds that are rare are left out where there are none."""
    counts = {
        "changed": len(report.files_changed),
        "moved": len(report.files_moved),
        "removed": len(report.files_removed),
    }
    rare = "".join(f"{count} {kind}, " for kind, count in counts.items() if count)
    return (
        f"{len(report.files_added)} added, {rare}{report.files_unchanged} unchanged, "
        f"{len(report.files_failed)} failed"
    )
