"""Ledgers of event logs on SQLite and PostgreSQL: in the database of the log, or in a file beside its own."""
