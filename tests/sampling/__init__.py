"""Faulty samplers on an oracle whose right answer is known, and how often a verdict catches them."""
