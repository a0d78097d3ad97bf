"""Tuned against tuned: a search over an engine's declared space, with wrong answers excluded.

campaign (what is asked) -> strategy (which points) -> stages (ordinary runs) -> outcomes -> effects, found.
Nothing that every bench loads imports this room.
"""
