"""Tests of the core (`states`): no clock, no process, no sleep."""
