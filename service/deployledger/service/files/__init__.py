"""The files that deployledger keeps on this machine: private, written whole, locked, and read with care."""
