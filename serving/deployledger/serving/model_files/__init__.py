"""A model's files on disk: the listing that its digest is of, and the check of the files against it.

Servers run this before anything else, so it needs the standard library alone.
"""
