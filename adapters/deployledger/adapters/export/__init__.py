"""A log as a file: all of it is exported, and imported into a log that has no events. docs/moving.md.

Positions, ids, versions, times and metadata are kept, so that the Merkle root is the same on the other side.
"""

from deployledger.adapters.export.exporting import Exported, export_log
from deployledger.adapters.export.importing import Imported, import_log

__all__ = ["Exported", "Imported", "export_log", "import_log"]
