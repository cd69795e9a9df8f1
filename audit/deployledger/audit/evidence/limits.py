"""The limits of evidence: what it cannot show even if it is valid."""

from deployledger.audit.evidence.manifest import VERSION, EvidenceSelection

_OUTSIDE_OF_RANGE = (
    "It shows nothing outside of the range. Where the range extends to the checkpoint, only the "
    "exporter's word says that nothing was recorded between its last event and its end."
)
_OF_DEPLOYMENT = (
    "The deployment's events have no gap up to the last one shown. Whether a later one was left out "
    "cannot be detected here; evidence of a range of time, or the whole log, shows that."
)
_OF_KEY = "It shows that the owner of the key signed this state of the log."
_NOT_COMPARED = (
    "To check that it continues what you were given earlier, pass the checkpoint or evidence that you kept "
    "as --earlier."
)
_OF_WHAT_WAS_KEPT = "It was not compared with any other state than those given as --earlier."
_REPORT_OF_VERSION_1 = (
    "This is format 1, whose report is not compared with the events: it is whatever the exporter wrote. "
    "Where it matters, read the events."
)


def limits(
    selection: EvidenceSelection | None, version: int = VERSION, *, is_compared: bool = False
) -> tuple[str, ...]:
    """Return what evidence in a version of its format does not show, a sentence each.

    Args:
        is_compared: whether it was found to continue an earlier state.
    """
    return (
        "It shows nothing that was recorded after the checkpoint.",
        _OUTSIDE_OF_RANGE if selection is None or selection.is_range else _OF_DEPLOYMENT,
        "It shows what was recorded, and that it was not changed since; not that it was true when it was "
        "recorded.",
        f"{_OF_KEY} {_OF_WHAT_WAS_KEPT if is_compared else _NOT_COMPARED}",
        *((_REPORT_OF_VERSION_1,) if version == 1 else ()),
    )
