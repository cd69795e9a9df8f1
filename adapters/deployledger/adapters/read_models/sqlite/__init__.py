"""Read models in an SQLite file, or in memory."""
