"""Stores an example and a fingerprint of every event's version that has none; what is there stays.

python -m tests.golden.make

``<topic>.v<version>.json`` has the ``state`` as it is stored, and what it ``reads_as`` in the current
version; ``fingerprints.json`` what each version stores. docs/events.md says what to do with them.
"""

import json
import sys
from pathlib import Path
from typing import Any

from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.domain.events import Event
from tests.golden.examples import EXAMPLES, example
from tests.golden.shapes import Shape, shape

FOLDER = Path(__file__).parent
FINGERPRINTS = FOLDER / "fingerprints.json"


def golden_path(topic: str, version: int) -> Path:
    """Return where the example of an event's version is."""
    return FOLDER / f"{topic}.v{version}.json"


def golden(event: Event) -> dict[str, Any]:
    """Return what is stored of an event, and how it reads."""
    return {
        "topic": event.TOPIC,
        "class_version": event.class_version,
        "state": json.loads(EventMapper().to_stored_event(event).state),
        "reads_as": event.model_dump(mode="json"),
    }


def fingerprints() -> dict[str, dict[str, Shape]]:
    """Return what each version of each event stores, as it was when the version was made."""
    stored: dict[str, dict[str, Shape]] = json.loads(FINGERPRINTS.read_text())
    return stored


def main() -> None:
    """Store what is missing."""
    known = fingerprints() if FINGERPRINTS.exists() else {}
    for event_class in EXAMPLES:
        topic, version = event_class.TOPIC, event_class.class_version
        path = golden_path(topic, version)
        if not path.exists():
            path.write_text(_pretty(golden(example(event_class))))
            sys.stdout.write(f"{path.name} is new\n")
        if str(version) not in known.setdefault(topic, {}):
            known[topic][str(version)] = shape(event_class)
            sys.stdout.write(f"{FINGERPRINTS.name}: version {version} of {topic} is new\n")
    FINGERPRINTS.write_text(_pretty(known))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
