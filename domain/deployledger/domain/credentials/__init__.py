"""Detection of credentials by name, by format, and by position in a text."""
