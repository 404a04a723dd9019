"""Whole worlds from a seed: the real core among fake workers, memory, people and faults. `make simulate` runs it."""
