"""Deployments at a glance: a table with one row each, for any terminal width."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.layout import Labelled, ending
from deployledger.adapters.cli.terminal import shown

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from rich.console import Console, ConsoleOptions, RenderResult

    from deployledger.domain.responses import DeploymentStatusResponse

_GAP = "  "
_NOTHING = "-"
_INDENT = 4
_LEAST_MODEL = 16
_WHY = "WHY"
_MOST_OF_NAME = 40
"""The width reserved for names before other columns; longer names wrap."""
_LEAST_NAME = 12
_MOST_NEEDED_FIRST = ("REASON", "MODEL", "AGE", "NAME", "ENDPOINT", "REV", "ID", "BY", "FILES", _WHY)
_ON_WIDE_TERMINALS = ("FILES", "BY")
_DELETION = ("deleting", "delete_failed")
"""The states that are about the whole deployment, not about a revision."""


class DeploymentTable:
    """One row per deployment; the least important columns are dropped where there is no room.

    The name and the status are always there, and neither is cut: a name that is too long goes on below.
    Where an earlier revision serves, the row has its model, its files and who asked for it, and the reason
    names the newest revision.

    Args:
        as_of: the moment that ages count back from; None means now.
        created: when the request of each happened, by the log; of others it is when they say.
        is_wide: whether nothing is left out: what has no room, and why something failed, is below its row.
    """

    def __init__(
        self,
        deployments: "Sequence[DeploymentStatusResponse]",
        as_of: "datetime | None" = None,
        *,
        created: "Mapping[UUID, datetime] | None" = None,
        is_wide: bool = False,
    ) -> None:
        self._deployments = deployments
        self._as_of = as_of
        self._created = created or {}
        self._is_wide = is_wide

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        rows = [self._cells(deployment, is_terminal=options.is_terminal) for deployment in self._deployments]
        widths = {
            heading: max(cell_len(heading), *(row[heading].cell_len for row in rows)) for heading in rows[0]
        }
        if options.is_terminal:
            for heading in list(widths):
                if all(row[heading].plain == _NOTHING for row in rows):
                    del widths[heading]
        widths = self._fitting(widths, options.max_width)
        yield from _lines({column: Text(column, "bold") for column in widths}, widths)
        for deployment, row in zip(self._deployments, rows, strict=True):
            yield from _lines(row, widths)
            if self._is_wide and _WHY not in row:
                yield from self._below(
                    deployment, {column: row[column] for column in row if column not in widths}
                )

    def _cells(self, deployment: "DeploymentStatusResponse", *, is_terminal: bool) -> dict[str, Text]:
        """Return the cells of a deployment, from left to right."""
        mark = marks.of_status(deployment)
        status = Text(deployment.status, mark.style)
        if is_terminal:  # words in a pipe are counted by programs
            status = mark.before(status)
        if deployment.warning:
            status.append(" (stale)", "red")
        uri, files, actor = _revision_shown(deployment)
        cells = {
            "NAME": shown(deployment.deployment_name),
            "STATUS": status,
            "REASON": shown(self._reason(deployment) or _NOTHING),
            "REV": shown(_revision(deployment)),
            "MODEL": shown(uri if self._is_wide else units.model(uri)),
            "ENDPOINT": shown(deployment.endpoint_url or _NOTHING),
            "AGE": shown(units.age(self._time_of_request(deployment), self._as_of)),
            "BY": shown(actor or _NOTHING),
            "FILES": shown(units.short_digests(files or _NOTHING)),
            "ID": shown(str(deployment.deployment_id)[:8]),
        }
        if self._is_wide and not is_terminal:
            cells[_WHY] = shown(_why(deployment) or _NOTHING)
        elif not is_terminal:
            for heading in _ON_WIDE_TERMINALS:
                del cells[heading]
        return cells

    def _time_of_request(self, deployment: "DeploymentStatusResponse") -> "datetime":
        return self._created.get(deployment.deployment_id, deployment.created_at)

    def _reason(self, deployment: "DeploymentStatusResponse") -> str:
        """Return, in a few words, why a deployment failed or how far it has got."""
        words = self._words(deployment)
        is_about_newest = words and _serves_another(deployment) and deployment.state not in _DELETION
        return f"r{deployment.revision} {words}" if is_about_newest else words

    def _words(self, deployment: "DeploymentStatusResponse") -> str:
        if deployment.failure is not None:
            failed_at = deployment.failed_at
            ago = f" {units.age(failed_at, self._as_of)} ago" if failed_at is not None else ""
            return f"{deployment.failure.reason}{ago}"
        if deployment.progress is not None:
            progress = deployment.progress
            return f"{progress.step} ({progress.steps_done + 1} of {progress.steps_total})"
        if deployment.status == "inactive":
            return deployment.state
        return "cancelled" if _serves_another(deployment) else ""

    def _fitting(self, widths: Mapping[str, int], width: int) -> dict[str, int]:
        """Return the columns that fit, from left to right, with their widths."""
        status = widths["STATUS"]
        name = min(widths["NAME"], max(min(_MOST_OF_NAME, width - status - len(_GAP)), _LEAST_NAME))
        chosen = {"NAME": name, "STATUS": status}
        by_need = [heading for heading in _MOST_NEEDED_FIRST if heading in widths]
        if any(deployment.state == "deleted" for deployment in self._deployments):
            by_need.insert(0, "ID")  # nothing else tells it from others that had its name
        for heading in by_need:
            spare = width - _total(chosen)
            least = widths[heading]
            if heading == "NAME":
                chosen["NAME"] = min(widths["NAME"], name + max(0, spare))
                continue
            if heading == "MODEL" and not self._is_wide:
                least = min(least, _LEAST_MODEL)
            if least + len(_GAP) <= spare:
                chosen[heading] = least
        if "MODEL" in chosen:
            chosen["MODEL"] = min(widths["MODEL"], chosen["MODEL"] + max(0, width - _total(chosen)))
        return {heading: chosen[heading] for heading in widths if heading in chosen}

    def _below(
        self, deployment: "DeploymentStatusResponse", left_out: Mapping[str, Text]
    ) -> Iterator[Labelled]:
        """Yield the details for which a wide table has no column."""
        others = ", ".join(
            f"{heading.lower()} {text.plain}" for heading, text in left_out.items() if text.plain != _NOTHING
        )
        why_style = marks.FAILED.style if deployment.failure is not None else ""
        for text, style in ((others, ""), (_why(deployment), why_style)):
            if text:
                yield Labelled([("", shown(text, style))], indent=_INDENT, width=0)


def _lines(cells: Mapping[str, Text], widths: Mapping[str, int]) -> Iterator[Text]:
    """Yield a row; names that are too long, in several lines."""
    name = cells["NAME"]
    first, *others = name.divide(range(widths["NAME"], len(name), widths["NAME"]))
    line = Text(no_wrap=True, overflow="ignore")
    for heading, width in widths.items():
        cell = first if heading == "NAME" else cells[heading]
        if heading == "MODEL":
            cell = Text(ending(cell.plain, width), cell.style)
        line.append_text(cell).append(" " * max(0, width - cell.cell_len) + _GAP)
    line.rstrip()
    yield line
    yield from others


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + len(_GAP) * (len(widths) - 1)


def _serves_another(deployment: "DeploymentStatusResponse") -> bool:
    return deployment.serving_revision not in (None, deployment.revision)


def _revision_shown(deployment: "DeploymentStatusResponse") -> tuple[str, str | None, str | None]:
    """Return the model, files and requester of the revision that serves, or, if none does, of the newest."""
    if _serves_another(deployment):
        model = deployment.deployed_model_version or deployment.model_uri
        return model, deployment.serving_artifact_digest, deployment.serving_requested_by
    return deployment.model_uri, deployment.artifact_digest, deployment.requested_by


def _revision(deployment: "DeploymentStatusResponse") -> str:
    if _serves_another(deployment):
        return f"{deployment.revision} ({deployment.serving_revision} serves)"
    return str(deployment.revision)


def _why(deployment: "DeploymentStatusResponse") -> str:
    """Return what the newest revision is, if another serves, and why it failed."""
    failure = deployment.failure
    why = f"{failure.step}: {failure.message} {failure.hint}".rstrip() if failure is not None else ""
    if not _serves_another(deployment):
        return why
    newest = f"revision {deployment.revision}: {deployment.model_uri} by {deployment.requested_by}"
    return f"{newest}; {why}" if why else newest
