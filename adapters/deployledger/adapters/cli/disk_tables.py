"""Tables of ``df`` and ``gc``."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deployledger.adapters.cli.rendering import used_by
from deployledger.adapters.cli.terminal import shown
from deployledger.adapters.cli.units import short_digests, size

if TYPE_CHECKING:
    from deployledger.service.disk_usage import DiskUsage
    from deployledger.service.freeing import Decided, Freed


def disk_usage_tables(usage: "DiskUsage") -> Group:
    """Return disk usage by kind, then by deployment, and the free space."""
    kinds = _table("WHAT", "SIZE", "FREEABLE")
    for kind in usage.kinds:
        kinds.add_row(kind.kind, size(kind.disk_bytes), _or_dash(kind.freeable_bytes))
    kinds.add_row("total", size(usage.disk_bytes), _or_dash(usage.freeable_bytes), style="bold")
    parts: list[Table | Text] = [kinds]
    if usage.deployments:
        deployments = _table("DEPLOYMENT", "OWN", "SHARED", "FREEABLE")
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
    table = _table("WHAT", "SIZE", "USED BY", "WHY")
    for each in decided:
        stored = each.files.stored
        name = short_digests(stored.digest) if stored.digest else stored.path
        table.add_row(
            Text.assemble(f"{stored.kind.replace('_', ' ')} ", shown(name), overflow="fold"),
            size(sum(stored.files.values())),
            used_by(each.files),
            each.reason,
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for heading in others:
        is_text = heading in ("USED BY", "WHY")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text)
    return table


def _or_dash(count: int) -> str:
    return size(count) if count else "-"
