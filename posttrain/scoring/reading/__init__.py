"""Reads answers without computer algebra: where they stand in a completion, their spelling, and what kind of thing they are."""
