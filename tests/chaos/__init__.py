"""Chaos: real sessions under the real daemon, with faults drawn from a seed; every row of every one is counted."""
