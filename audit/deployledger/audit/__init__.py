"""Proofs about the log: signed checkpoints, evidence for auditors, and replays of the history."""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "checkpoints": ("Checkpoint", "open_checkpoint"),
        "evidence.export": ("export_evidence",),
        "evidence.verification": ("EvidenceReport", "verify_evidence"),
        "keys": ("Signer", "Verifier", "generate"),
        "ledger": ("Ledger",),
        "ledger_store": ("StoredCheckpoint",),
        "log_check": ("LogCheck",),
        "merkle": ("leaf_hash", "root_from_inclusion"),
        "proofs": ("ConsistencyProof", "InclusionProof"),
        "replaying": ("Replayed",),
    },
)
