"""Tables of stored files: ``artifacts list``, ``df`` and ``gc``."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deployledger.adapters.cli.layout import table_of
from deployledger.adapters.cli.terminal import shown
from deployledger.adapters.cli.units import short_digests, size

if TYPE_CHECKING:
    from deployledger.service.disk_usage import DiskUsage
    from deployledger.service.freeing import Decided, Freed
    from deployledger.service.stored_files import StoredFiles

_DIGEST_LETTERS = 12


def disk_usage_tables(usage: "DiskUsage") -> Group:
    """Return disk usage by kind, then by deployment, and the free space."""
    kinds = table_of("WHAT", "SIZE", "FREEABLE", wrapped=("WHAT",), right=("SIZE", "FREEABLE"))
    for kind in usage.kinds:
        kinds.add_row(kind.kind, size(kind.disk_bytes), _or_dash(kind.freeable_bytes))
    kinds.add_row("total", size(usage.disk_bytes), _or_dash(usage.freeable_bytes), style="bold")
    parts: list[Table | Text] = [kinds]
    if usage.deployments:
        deployments = table_of(
            "DEPLOYMENT",
            "OWN",
            "SHARED",
            "FREEABLE",
            wrapped=("DEPLOYMENT",),
            right=("OWN", "SHARED", "FREEABLE"),
        )
        for each in usage.deployments:
            deployments.add_row(
                Text.assemble(shown(each.deployment_name), " deleted" if each.is_deleted else ""),
                _or_dash(each.own_bytes),
                _or_dash(each.shared_bytes),
                _or_dash(each.freeable_bytes),
            )
        parts.append(deployments)
    parts.append(Text.assemble(f"{size(usage.free_bytes)} free in ", shown(usage.home), "."))
    parts.append(
        Text.assemble(f"The event log uses {size(usage.database_bytes)} in ", shown(usage.database), ".")
    )
    if usage.freeable_bytes:
        parts.append(Text(f"`deployledger gc` frees {size(usage.freeable_bytes)}."))
    return Group(*parts)


def freed_table(freed: "Freed") -> Group:
    """Return what was freed, or would be, and what was left because others may need it."""
    parts: list[Table | Text] = []
    if freed.freed:
        parts.append(_decisions(freed.freed))
    if freed.is_plan:
        parts.append(Text(f"Would free {size(freed.freed_bytes)}; nothing was changed."))
    elif freed.freed:
        parts.append(Text(f"Freed {size(freed.freed_bytes)}."))
    else:
        parts.append(Text("There is nothing to free."))
    if freed.left:
        parts.append(Text("Left in place:"))
        parts.append(_decisions(freed.left))
    return Group(*parts)


def _decisions(decided: Iterable["Decided"]) -> Table:
    table = table_of("WHAT", "SIZE", "USED BY", "WHY", wrapped=("WHAT", "USED BY", "WHY"), right=("SIZE",))
    for each in decided:
        stored = each.files.stored
        name = short_digests(stored.digest) if stored.digest else stored.path
        table.add_row(
            Text.assemble(f"{stored.kind.replace('_', ' ')} ", shown(name), overflow="fold"),
            size(sum(stored.files.values())),
            _used_by(each.files),
            each.reason,
        )
    return table


def _or_dash(count: int) -> str:
    return size(count) if count else "-"


def stored_files_table(files: "Sequence[StoredFiles]") -> Group:
    """Return a table with one row for everything that is stored; damage that shows already is red.

    What has neither a digest nor a deployment is known by its path alone: those are below, in one piece each.
    """
    table = table_of("KIND", "DIGEST", "SIZE", "USED BY", wrapped=("USED BY",), right=("SIZE",))
    for file in files:
        table.add_row(
            file.stored.kind.replace("_", " "),
            file.stored.digest.removeprefix("sha256:")[:_DIGEST_LETTERS] or "-",
            size(file.stored.size_bytes),
            Text("path below") if _has_path_alone(file) else _used_by(file),
            style="red" if file.stored.damage else None,
        )
    paths = [
        Text.assemble(
            f"{file.stored.kind.replace('_', ' ')}: ",
            shown(file.stored.path),
            no_wrap=True,
            overflow="ignore",
        )
        for file in files
        if _has_path_alone(file)
    ]
    return Group(table, *paths)


def _has_path_alone(files: "StoredFiles") -> bool:
    return files.stored.digest == "" and files.stored.deployment_id is None


def _used_by(files: "StoredFiles") -> Text:
    """Return which revisions use something that is stored."""
    uses = [
        f"{use.deployment_name} r{use.revision}{' (serves)' if use.serves else ''}"
        for use in files.used_by
        if not use.deleted
    ]
    if uses:
        return shown(", ".join(uses))
    deleted = ", ".join(f"{use.deployment_name} r{use.revision}" for use in files.used_by)
    return shown(f"unused (deleted: {deleted})" if deleted else "unused")
