"""The real daemon killed at every point of its work, started again, and held against a run that nothing disturbed."""
