"""The report: one page for people, made from the events alone. It needs nothing from elsewhere."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from deployledger.audit.evidence.limits import limits
from deployledger.audit.evidence.manifest import EvidenceSelection
from deployledger.audit.evidence.markup import Html, fill, html, joined
from deployledger.audit.evidence.readme import COMMANDS, PACKAGE
from deployledger.audit.evidence.story import MOST_SHOWN, Entry, RevisionStory, Story, ValueChange
from deployledger.audit.evidence.texts import text
from deployledger.audit.keys import Verifier

_LONGEST_VALUE = 300
_MOST_CHANGES = 40
_SHORT_DIGEST = len("sha256:") + 12
_NOTHING = "–"
_MOST_APART = timedelta(minutes=1)
"""How much later than it happened an event is recorded, if neither clock was wrong."""

_T = TypeVar("_T")


def render(story: Story, selection: EvidenceSelection, size: int, root: bytes, verifier: Verifier) -> bytes:
    """Return the report as HTML: the same bytes for the same events, since who verifies makes it again.

    Args:
        size: how many events the checkpoint covers.
        root: its root.
        verifier: the public key that signed it.
    """
    subject = "what happened in a range of time"
    complete = "the first and the last of them, nor at the two ends"
    if not selection.is_range:
        subject = f"deployment {selection.name or selection.deployment_id}"
        complete = "the first and the last event of the deployment"
    page = fill(
        "page",
        title=f"Evidence of {subject}",
        style=Html(text("report.css")),
        lead=_lead(selection),
        facts=_facts(_key_facts(story, selection, size, root, verifier)),
        summary=joined(_summary(story, selection), "\n"),
        served=joined(_served(story, selection), "\n"),
        revisions=joined(_revisions(story, selection), "\n"),
        timeline=joined(_timeline(story, selection), "\n"),
        verifier=verifier,
        commands=COMMANDS,
        package=PACKAGE,
        complete=complete,
        limits=joined((fill("item", text=limit) for limit in limits(selection)), "\n"),
    )
    return f"{page}\n".encode("utf-8", "backslashreplace")


# Texts --------------------------------------------------------------------------------------------------


def _time(moment: datetime | None) -> str:
    return _NOTHING if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _short(digest: str) -> str:
    return f"{digest[:_SHORT_DIGEST]}…" if len(digest) > _SHORT_DIGEST else digest or _NOTHING


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}… (whole in events.jsonl)"


def _mono(value: object) -> Html:
    return fill("mono", text=value)


def _named(name: str, deployment_id: UUID) -> Html:
    """Return a deployment's name with its id: one after the other, several may have had the name."""
    return joined([_cut(name), " ", _mono(deployment_id)]) if name else _mono(deployment_id)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _lasted(seconds: float) -> str:
    if seconds < 1:
        return f"{max(0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def _facts(facts: Mapping[str, object]) -> Html:
    rows = (fill("fact", label=label, value=value) for label, value in facts.items())
    return fill("facts", rows=joined(rows, "\n"))


def _ends(items: Sequence[_T]) -> tuple[Sequence[_T], Sequence[_T], int]:
    """Return the first and the last of many, and how many there are between them."""
    if len(items) <= 2 * MOST_SHOWN:
        return items, [], 0
    return items[:MOST_SHOWN], items[-MOST_SHOWN:], len(items) - 2 * MOST_SHOWN


# Sections -----------------------------------------------------------------------------------------------


def _lead(selection: EvidenceSelection) -> str:
    if selection.deployment_id is not None:
        return (
            f"Everything that was recorded about deployment {selection.deployment_id}, up to the checkpoint."
        )
    since = f"from {_time(selection.since)}" if selection.since else "from the beginning of the log"
    until = f"to {_time(selection.until)}" if selection.until else "to the checkpoint"
    return f"Every event that was recorded {since} {until}, of all deployments."


def _key_facts(
    story: Story, selection: EvidenceSelection, size: int, root: bytes, verifier: Verifier
) -> dict[str, object]:
    deployment_id = selection.deployment_id
    name = fill("two_lines", first=selection.name or _NOTHING, second=_mono(deployment_id))
    events = "none: nothing was recorded in this range"
    if story.events:
        events = (
            f"{story.events:,}, positions {selection.first:,} to {selection.last:,} of the log, "
            f"recorded {_time(story.first_at)} to {_time(story.last_at)}"
        )
    return {
        "Ledger (origin)": verifier.name,
        **({"Deployment": name} if deployment_id is not None else {}),
        "Events in this evidence": events,
        "Checkpoint": f"the first {size:,} events of the log",
        "Root of the checkpoint": _mono(base64.b64encode(root).decode()),
        "Signed with the key": fill("two_lines", first=_mono(verifier.key_id.hex()), second=_mono(verifier)),
    }


def _summary(story: Story, selection: EvidenceSelection) -> Iterator[Html]:
    if not story.events:
        yield fill("paragraph", text="Nothing was recorded in this range.")
        return
    served = [revision for revision in story.revisions.values() if revision.served_from is not None]
    about = (
        f"deployment {selection.name}" if not selection.is_range else _count(story.deployments, "deployment")
    )
    revisions = f"{_count(len(story.revisions), 'revision')}, of which {len(served):,} served."
    yield fill("paragraph", text=f"{_count(story.events, 'event')} about {about}: {revisions}")
    if not selection.is_range and served:
        serving = [revision for revision in served if revision.served_until is None]
        if serving:
            last = serving[-1]
            yield fill(
                "serving",
                number=last.number,
                since=_time(last.served_from),
                requested_by=_cut(last.requested_by) or "somebody before these events",
                place=joined([", at ", _mono(_cut(last.endpoint))]) if last.endpoint else "",
                artifact=_mono(last.artifact or "not known"),
            )
        else:
            ended = _time(served[-1].served_until)
            yield fill("paragraph", text=f"At the last event, nothing was serving, since {ended}.")
    if any(revision.is_simulated for revision in story.revisions.values()):
        yield fill("simulated")
    for wrong in story.wrong_times:
        yield fill("wrong_clock", what=wrong)
    actors = [(_cut(actor), number) for actor, number in _most(story.actors)]
    yield _facts({"Who caused events": _counted(actors), "What happened": _counted(_most(story.happened))})


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    ordered = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
    rest = sum(number for _, number in ordered[_MOST_CHANGES:])
    return ordered[:_MOST_CHANGES] + ([("others", rest)] if rest else [])


def _counted(counts: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{what} ({number:,})" for what, number in counts)


def _table(columns: Sequence[str], first: Sequence[Html], left_out: str, last: Sequence[Html]) -> Html:
    between = [fill("left_out", columns=len(columns), text=left_out)] if left_out else []
    headings = joined(fill("column", text=column) for column in columns)
    return fill("table", columns=headings, rows=joined([*first, *between, *last], "\n"))


def _served(story: Story, selection: EvidenceSelection) -> Iterator[Html]:
    served = [revision for revision in story.revisions.values() if revision.served_from is not None]
    if not served:
        yield fill("paragraph", text="No revision began to serve in these events.")
        return
    first, last, left_out = _ends(sorted(served, key=lambda revision: str(revision.served_from)))
    yield _table(
        [
            "From (UTC)",
            "Until (UTC)",
            *(["Deployment"] if selection.is_range else []),
            *["Revision", "Requested by", "Model", "Artifact"],
        ],
        [_served_row(revision, selection) for revision in first],
        f"{left_out:,} revisions are left out here; events.jsonl has them." if left_out else "",
        [_served_row(revision, selection) for revision in last],
    )
    if selection.is_range:
        yield fill("before_range")


def _served_row(revision: RevisionStory, selection: EvidenceSelection) -> Html:
    until = revision.served_until
    name = _named(revision.name, revision.deployment_id)
    return fill(
        "served",
        since=f"{revision.served_from:%Y-%m-%d %H:%M:%S}",
        until=f"{until:%Y-%m-%d %H:%M:%S}" if until else "at the last event it served",
        deployment=fill("cell", text=name) if selection.is_range else "",
        number=revision.number,
        mark=fill("mark") if revision.is_simulated else "",
        requested_by=_cut(revision.requested_by) or _NOTHING,
        model=_cut(revision.model_uri) or _NOTHING,
        artifact=_short(revision.artifact),
    )


def _revisions(story: Story, selection: EvidenceSelection) -> Iterator[Html]:
    if not story.revisions:
        yield fill("paragraph", text="The events are of no revision.")
        return
    first, last, left_out = _ends([*story.revisions.values()])
    for revision in first:
        yield _revision(revision, selection)
    if left_out:
        yield fill("note", text=f"{left_out:,} revisions are left out here; events.jsonl has them.")
    for revision in last:
        yield _revision(revision, selection)


def _revision(revision: RevisionStory, selection: EvidenceSelection) -> Html:
    heading = f"Revision {revision.number}"
    facts: dict[str, object] = {}
    if selection.is_range:
        heading = f"{revision.name or revision.deployment_id}, revision {revision.number}"
        facts["Deployment"] = _mono(revision.deployment_id)
    facts["Requested"] = "before these events"
    if revision.requested_at:
        facts["Requested"] = f"{_time(revision.requested_at)}, by {_cut(revision.requested_by)}"
    if revision.served_from is None:
        facts["Outcome"] = revision.outcome or "did not serve by the last event"
    else:
        until = f" to {_time(revision.served_until)}"
        if revision.served_until is None:
            until = "; at the last event it still served"
        facts["Served"] = f"from {_time(revision.served_from)}{until}"
    facts["Model"] = _cut(revision.model_uri) or _NOTHING
    if revision.resolved_uri and revision.resolved_uri != revision.model_uri:
        facts["Resolved to"] = _cut(revision.resolved_uri)
    if revision.model_version:
        facts["Model version"] = _cut(revision.model_version)
    facts["Artifact"] = _mono(revision.artifact or _NOTHING)
    facts["Image"] = _mono(revision.image or _NOTHING)
    if revision.endpoint:
        facts["Endpoint"] = _mono(_cut(revision.endpoint))
    if revision.is_simulated:
        facts["Simulated"] = "some of its steps were simulated; section 4 marks them"
    return fill("revision", heading=heading, facts=_facts(facts))


def _timeline(story: Story, selection: EvidenceSelection) -> Iterator[Html]:
    if not story.events:
        yield fill("paragraph", text="There is none.")
        return
    left_out = ""
    if story.left_out:
        which = f"The first and the last {MOST_SHOWN} of {story.events:,} events; events.jsonl has all."
        yield fill("note", text=which)
        left_out = f"{story.left_out:,} events are left out here; events.jsonl has them."
    first, last = story.shown()
    yield _table(
        ["Position", "Time (UTC)", "By", "What happened"],
        [_event(entry, selection) for entry in first],
        left_out,
        [_event(entry, selection) for entry in last],
    )


def _event(entry: Entry, selection: EvidenceSelection) -> Html:
    event = entry.event
    about: list[object] = [f" · revision {entry.revision}"] if entry.revision else []
    if entry.attempt > 1:
        about.append(f", attempt {entry.attempt}")
    if selection.is_range and entry.deployment_id is not None:
        about += [" · ", _named(entry.name, entry.deployment_id)]
    elif selection.is_range and entry.name:
        about.append(f" · {_cut(entry.name)}")
    if entry.is_simulated:
        about.append(fill("mark"))
    small = [f"took {_lasted(entry.duration)}"] if entry.duration is not None else []
    if (stated := entry.stated_at) is not None and abs(event.time - stated) > _MOST_APART:
        small.append(f"by its own clock it happened at {_time(stated)}")
    if event.data is None:
        small.append("its stored state is no JSON")
    changes = [_change(change) for change in entry.changes[:_MOST_CHANGES]]
    if len(entry.changes) > _MOST_CHANGES:
        more = f"and {len(entry.changes) - _MOST_CHANGES:,} more; events.jsonl has them"
        changes.append(fill("item", text=more))
    return fill(
        "event",
        position=event.position,
        date=f"{event.time:%Y-%m-%d}",
        clock=f"{event.time:%H:%M:%S}",
        fraction=f"{event.time:%f}",
        actor=_cut(event.actor or _NOTHING),
        what=entry.what,
        about=joined(about),
        small=fill("small", text="; ".join(small)) if small else "",
        changes=fill("changes", items=joined(changes)) if changes else "",
    )


def _change(change: ValueChange) -> Html:
    before = fill("before", value=_value(change.before)) if change.before is not None else ""
    after = _value(change.after) if change.after is not None else "(taken away)"
    return fill("changed", what=_cut(change.what), before=before, after=after)


def _value(value: str) -> Html:
    return _mono(value) if value.startswith("sha256:") else html(_cut(value)) or Html("(empty)")
