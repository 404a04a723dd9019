"""Thousands of handovers of a real daemon, and what grows meanwhile. By hand: `python -m tests.endurance`."""
