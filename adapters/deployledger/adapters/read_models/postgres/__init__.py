"""Read models on PostgreSQL."""
