"""The report: one page for people, made from the events alone. It needs nothing from elsewhere."""

import base64
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from html import escape
from uuid import UUID

from deployledger.audit.evidence.limits import limits
from deployledger.audit.evidence.manifest import EvidenceSelection
from deployledger.audit.evidence.readme import COMMANDS, PACKAGE, text
from deployledger.audit.evidence.story import MOST_SHOWN, Change, Entry, Revision, Story
from deployledger.audit.keys import Verifier

_LONGEST_VALUE = 300
_MOST_CHANGES = 40
_SHORT_DIGEST = len("sha256:") + 12
_NOTHING = "–"
_MOST_APART = timedelta(minutes=1)
"""How much later than it happened an event is recorded, if neither clock was wrong."""


def render(story: Story, selection: EvidenceSelection, size: int, root: bytes, verifier: Verifier) -> bytes:
    """Return the report as HTML: the same bytes for the same events, since who verifies makes it again.

    Args:
        size: how many events the checkpoint covers.
        root: its root.
        verifier: the public key that signed it.
    """
    title = f"Evidence of {_subject(selection)}"
    sections = [
        f"<h1>{_e(title)}</h1>",
        f'<p class="lead">{_e(_scope(selection))}</p>',
        _facts(_key_facts(story, selection, size, root, verifier)),
        "<h2>1. Summary</h2>",
        *_summary(story, selection),
        "<h2>2. What served, and when</h2>",
        *_served(story, selection),
        "<h2>3. Revisions, and the bytes they are of</h2>",
        *_revisions(story, selection),
        "<h2>4. Every event</h2>",
        *_timeline(story, selection),
        '<div class="together"><h2>5. How to verify</h2>',
        *_verifying(verifier),
        "</div>",
        "<h2>6. What this shows, and what it does not</h2>",
        *_limits(selection),
    ]
    page = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_e(title)}</title>\n<style>{text('report.css')}</style>\n</head>\n<body>\n{page}\n</body>\n</html>\n"
    ).encode("utf-8", "backslashreplace")


def _e(text: object) -> str:
    """Return user text for HTML; what cannot be seen, or changes the direction, is spelled out."""
    shown = "".join(it if it.isprintable() or it == "\n" else f"\\u{ord(it):04x}" for it in str(text))
    return escape(shown, quote=True)


def _time(moment: datetime | None, *, short: bool = False) -> str:
    if moment is None:
        return _NOTHING
    return f"{moment:%Y-%m-%d %H:%M:%S}" + ("" if short else " UTC")


def _short(digest: str) -> str:
    return f"{digest[:_SHORT_DIGEST]}…" if len(digest) > _SHORT_DIGEST else digest or _NOTHING


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… (whole in events.jsonl)"


def _named(name: str, deployment_id: UUID) -> str:
    """Return a deployment's name with its id: one after the other, several may have had the name."""
    return f"{_e(_cut(name))} {_mono(deployment_id)}" if name else _mono(deployment_id)


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


def _subject(selection: EvidenceSelection) -> str:
    if selection.deployment_id is not None:
        return f"deployment {selection.name or selection.deployment_id}"
    return "what happened in a range of time"


def _scope(selection: EvidenceSelection) -> str:
    if selection.deployment_id is not None:
        return (
            f"Everything that was recorded about deployment {selection.deployment_id}, up to the checkpoint."
        )
    since = f"from {_time(selection.since)}" if selection.since else "from the beginning of the log"
    until = f"to {_time(selection.until)}" if selection.until else "to the checkpoint"
    return f"Every event that was recorded {since} {until}, of all deployments."


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "\n".join(f"<tr><th>{_e(label)}</th><td>{value}</td></tr>" for label, value in facts)
    return f'<table class="facts"><tbody>\n{rows}\n</tbody></table>'


def _mono(text: object) -> str:
    return f'<span class="mono">{_e(text)}</span>'


def _key_facts(
    story: Story, selection: EvidenceSelection, size: int, root: bytes, verifier: Verifier
) -> Iterator[tuple[str, str]]:
    yield "Ledger (origin)", _e(verifier.name)
    if selection.deployment_id is not None:
        yield "Deployment", f"{_e(selection.name or _NOTHING)}<br>{_mono(selection.deployment_id)}"
    yield "Events in this evidence", _e(_events_of(story, selection))
    yield (
        "Checkpoint",
        _e(f"the first {size:,} events of the log"),
    )
    yield "Root of the checkpoint", _mono(base64.b64encode(root).decode())
    yield "Signed with the key", f"{_mono(verifier.key_id.hex())}<br>{_mono(verifier)}"


def _events_of(story: Story, selection: EvidenceSelection) -> str:
    if not story.events:
        return "none: nothing was recorded in this range"
    positions = f"positions {selection.first:,} to {selection.last:,} of the log"
    return f"{story.events:,}, {positions}, recorded {_time(story.first_at)} to {_time(story.last_at)}"


def _summary(story: Story, selection: EvidenceSelection) -> Iterator[str]:
    if not story.events:
        yield "<p>Nothing was recorded in this range.</p>"
        return
    served = [it for it in story.revisions.values() if it.served_from is not None]
    about = (
        f"deployment {selection.name}" if not selection.is_range else _count(story.deployments, "deployment")
    )
    yield (
        f"<p>{_count(story.events, 'event')} about {_e(about)}: "
        f"{_count(len(story.revisions), 'revision')}, of which {len(served):,} served.</p>"
    )
    if not selection.is_range and served:
        last = served[-1]
        now = [it for it in served if it.served_until is None]
        if now:
            last = now[-1]
            place = f", at {_mono(_cut(last.endpoint))}" if last.endpoint else ""
            yield (
                f"<p>At the last event, <b>revision {last.number}</b> was serving, since "
                f"{_e(_time(last.served_from))}, requested by "
                f"<b>{_e(_cut(last.requested_by) or 'somebody before these events')}</b>{place}. "
                f"Its artifact is {_mono(last.artifact or 'not known')}.</p>"
            )
        else:
            yield f"<p>At the last event, nothing was serving, since {_e(_time(last.served_until))}.</p>"
    if any(it.is_simulated for it in story.revisions.values()):
        yield (
            '<p><span class="mark">simulated</span> marks steps that were simulated: the service had no real '
            "client for them. Nothing was served by those.</p>"
        )
    for it in story.wrong_times:
        yield f"<p><b>The clock was wrong.</b> {_e(it)}</p>"
    yield '<table class="facts"><tbody>'
    yield _row(
        "Who caused events", "; ".join(f"{_e(_cut(who))} ({number:,})" for who, number in _most(story.actors))
    )
    yield _row(
        "What happened", "; ".join(f"{_e(topic)} ({number:,})" for topic, number in _most(story.topics))
    )
    yield "</tbody></table>"


def _most(counts: "dict[str, int]") -> list[tuple[str, int]]:
    ordered = sorted(counts.items(), key=lambda it: (-it[1], it[0]))
    rest = sum(number for _, number in ordered[_MOST_CHANGES:])
    return ordered[:_MOST_CHANGES] + ([("others", rest)] if rest else [])


def _row(label: str, value: str) -> str:
    return f"<tr><th>{_e(label)}</th><td>{value}</td></tr>"


def _shown(revisions: list[Revision]) -> tuple[list[Revision], list[Revision], int]:
    if len(revisions) <= 2 * MOST_SHOWN:
        return revisions, [], 0
    return revisions[:MOST_SHOWN], revisions[-MOST_SHOWN:], len(revisions) - 2 * MOST_SHOWN


def _served(story: Story, selection: EvidenceSelection) -> Iterator[str]:
    served = sorted(
        (it for it in story.revisions.values() if it.served_from is not None),
        key=lambda it: str(it.served_from),
    )
    if not served:
        yield "<p>No revision began to serve in these events.</p>"
        return
    first, last, left_out = _shown(served)
    columns = ["From (UTC)", "Until (UTC)", "Revision", "Requested by", "Model", "Artifact"]
    if selection.is_range:
        columns.insert(2, "Deployment")
    yield f"<table><thead><tr>{''.join(f'<th>{it}</th>' for it in columns)}</tr></thead><tbody>"
    for it in first:
        yield _served_row(it, selection)
    if left_out:
        yield _left_out_row(f"{left_out:,} revisions are left out here; events.jsonl has them.", len(columns))
    for it in last:
        yield _served_row(it, selection)
    yield "</tbody></table>"
    if selection.is_range:
        yield (
            '<p class="note">What had begun to serve before the range is not listed; '
            "when it ended, the events below say so.</p>"
        )


def _served_row(it: Revision, selection: EvidenceSelection) -> str:
    until = _time(it.served_until, short=True) if it.served_until else "at the last event it served"
    mark = ' <span class="mark">simulated</span>' if it.is_simulated else ""
    cells = [
        f'<td class="time">{_e(_time(it.served_from, short=True))}</td>',
        f"<td>{_e(until)}</td>",
        *([f"<td>{_named(it.name, it.deployment_id)}</td>"] if selection.is_range else []),
        f"<td>{it.number}{mark}</td>",
        f"<td>{_e(_cut(it.requested_by) or _NOTHING)}</td>",
        f"<td>{_e(_cut(it.model_uri) or _NOTHING)}</td>",
        f'<td class="mono digest">{_e(_short(it.artifact))}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _left_out_row(text: str, columns: int) -> str:
    return f'<tr class="left-out"><td colspan="{columns}">{_e(text)}</td></tr>'


def _revisions(story: Story, selection: EvidenceSelection) -> Iterator[str]:
    if not story.revisions:
        yield "<p>The events are of no revision.</p>"
        return
    first, last, left_out = _shown(list(story.revisions.values()))
    for it in first:
        yield _revision(it, selection)
    if left_out:
        yield f'<p class="note">{left_out:,} revisions are left out here; events.jsonl has them.</p>'
    for it in last:
        yield _revision(it, selection)


def _revision(it: Revision, selection: EvidenceSelection) -> str:
    heading = f"Revision {it.number}"
    if selection.is_range:
        heading = f"{it.name or it.deployment_id}, revision {it.number}"
    requested = (
        f"{_time(it.requested_at)}, by {_cut(it.requested_by)}" if it.requested_at else "before these events"
    )
    if it.served_from:
        until = _time(it.served_until) if it.served_until else "at the last event it still served"
        outcome = (
            f"from {_time(it.served_from)} to {until}"
            if it.served_until
            else (f"from {_time(it.served_from)}; {until}")
        )
    else:
        outcome = it.outcome or "did not serve by the last event"
    facts = [
        *([("Deployment", _mono(it.deployment_id))] if selection.is_range else []),
        ("Requested", _e(requested)),
        ("Served" if it.served_from else "Outcome", _e(outcome)),
        ("Model", _e(_cut(it.model_uri) or _NOTHING)),
    ]
    if it.resolved_uri and it.resolved_uri != it.model_uri:
        facts.append(("Resolved to", _e(_cut(it.resolved_uri))))
    if it.model_version:
        facts.append(("Model version", _e(_cut(it.model_version))))
    facts += [("Artifact", _mono(it.artifact or _NOTHING)), ("Image", _mono(it.image or _NOTHING))]
    if it.endpoint:
        facts.append(("Endpoint", _mono(_cut(it.endpoint))))
    if it.is_simulated:
        facts.append(("Simulated", "some of its steps were simulated; section 4 marks them"))
    return f'<div class="block"><h3>{_e(heading)}</h3>{_facts(facts)}</div>'


def _timeline(story: Story, selection: EvidenceSelection) -> Iterator[str]:
    if not story.events:
        yield "<p>There is none.</p>"
        return
    if story.left_out:
        yield (
            f'<p class="note">The first and the last {MOST_SHOWN} of {story.events:,} events; '
            "events.jsonl has all.</p>"
        )
    headings = "".join(f"<th>{it}</th>" for it in ("Position", "Time (UTC)", "By", "What happened"))
    yield f"<table><thead><tr>{headings}</tr></thead><tbody>"
    for entry in story.entries():
        if entry is None:
            yield _left_out_row(f"{story.left_out:,} events are left out here; events.jsonl has them.", 4)
        else:
            yield _event(entry, selection)
    yield "</tbody></table>"


def _event(entry: Entry, selection: EvidenceSelection) -> str:
    event = entry.event
    heading = f"<b>{_e(entry.what)}</b>"
    if entry.revision:
        heading += f" · revision {_e(entry.revision)}"
    if entry.attempt > 1:
        heading += f", attempt {entry.attempt}"
    if selection.is_range and entry.deployment_id is not None:
        heading += f" · {_named(entry.name, entry.deployment_id)}"
    elif selection.is_range and entry.name:
        heading += f" · {_e(_cut(entry.name))}"
    if entry.is_simulated:
        heading += ' <span class="mark">simulated</span>'
    small = [f"took {_lasted(entry.duration)}"] if entry.duration is not None else []
    if (stated := entry.stated_at) is not None and abs(event.time - stated) > _MOST_APART:
        small.append(f"by its own clock it happened at {_time(stated)}")
    if event.data is None:
        small.append("its stored state is no JSON")
    line = f'<div class="small">{_e("; ".join(small))}</div>' if small else ""
    changes = "".join(f"<li>{_change(it)}</li>" for it in entry.changes[:_MOST_CHANGES])
    if len(entry.changes) > _MOST_CHANGES:
        changes += f"<li>and {len(entry.changes) - _MOST_CHANGES:,} more; events.jsonl has them</li>"
    listed = f'<ul class="changes">{changes}</ul>' if changes else ""
    time, _, fraction = f"{event.time:%Y-%m-%d %H:%M:%S.%f}".rpartition(".")
    date, _, clock = time.partition(" ")
    return (
        f'<tr><td class="number">{event.position}</td>'
        f'<td class="time">{date}<br>{clock}<span class="small">.{fraction}</span></td>'
        f'<td class="who">{_e(_cut(event.actor or _NOTHING))}</td><td>{heading}{line}{listed}</td></tr>'
    )


def _change(it: Change) -> str:
    before = f'<span class="before">{_value(it.before)}</span> → ' if it.before is not None else ""
    after = _value(it.after) if it.after is not None else "(taken away)"
    return f"<b>{_e(_cut(it.what))}</b>: {before}{after}"


def _value(text: str) -> str:
    return _mono(text) if text.startswith("sha256:") else _e(_cut(text)) or "(empty)"


def _verifying(verifier: Verifier) -> Iterator[str]:
    yield (
        "<p>Anyone who has this file can verify it with the public key of the ledger's owner, without "
        "access to the database. Use the public key that the owner gave you through another channel. It "
        "should be this key:</p>"
    )
    yield f"<pre>{_e(verifier)}</pre>"
    yield f"<pre>{_e(COMMANDS)}</pre>"
    yield f"<p>{_e(PACKAGE)}</p>"
    yield (
        "<p>The command checks the signatures, the digest of every file, that every event matches its "
        "stored bytes, and that it is in the tree whose root the checkpoint signs, with an inclusion "
        "proof (RFC 6962); it regenerates this report from the events and compares the two. It reports "
        "the file and line of every problem. README.md explains how to verify with other tools.</p>"
    )


def _limits(selection: EvidenceSelection) -> Iterator[str]:
    yield "<p>If the verification succeeds, this evidence shows that</p><ul>"
    yield "<li>the events are in the log that the checkpoint signs, each at its position, unchanged;</li>"
    if selection.is_range:
        yield "<li>none was left out between the first and the last of them, nor at the two ends;</li>"
    else:
        yield "<li>none was left out between the first and the last event of the deployment;</li>"
    yield "<li>the holder of the key signed this selection of events and this report.</li></ul>"
    yield "<p>It does not show everything:</p><ul>"
    for limit in limits(selection):
        yield f"<li>{_e(limit)}</li>"
    yield "</ul>"
