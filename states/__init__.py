"""The core of batond: decides, and does nothing else.

No I/O, clock, logging, thread or chance; no import of `daemon`.
"""
