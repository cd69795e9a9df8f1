"""Evidence: events, taken out of a log with proofs, that others can verify without the database.

What verifies it (`archive`, `cloud_events`, `manifest`, `verifying`) needs the standard library and
cryptography alone.
"""
