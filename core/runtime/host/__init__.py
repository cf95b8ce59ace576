"""The host supervisor of a machine and its client."""
