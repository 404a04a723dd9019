"""What is measured, one command a part: `python -m bench.gap`, …; all of it: `python -m bench`. No tests live here."""
