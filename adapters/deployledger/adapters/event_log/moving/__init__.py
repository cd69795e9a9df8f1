"""Moving a log: all of it into a file, and a file into a log that has nothing yet. docs/moving.md.

Positions, ids, versions, times and metadata are kept, so that the Merkle root is the same on the other side.
The methods ``export_to`` and ``import_from`` of event logs are these functions.
"""

from deployledger.adapters.event_log.moving.exporting import export_log
from deployledger.adapters.event_log.moving.importing import import_log

__all__ = ["export_log", "import_log"]
