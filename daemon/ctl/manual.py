"""How commands explain themselves: their help with its examples, and how a number is called. Knows no command.

A docstring's first sentence is the line in the list of commands; what stands below `Examples:` is shown as it is.
"""

from __future__ import annotations

import inspect
from typing import Any

import click

HEADING = "Examples:"


class Explained(click.Command):
    """A command whose docstring may end in examples: one a line, a remark behind ` # `."""

    def __init__(self, name: str | None = None, *, help: str | None = None, **options: Any) -> None:  # noqa: A002 click's
        told, _, examples = inspect.cleandoc(help or "").partition(f"\n{HEADING}\n")
        super().__init__(name, help=told.rstrip(), **options)
        self.examples = inspect.cleandoc(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, not filled to the width: they are to be copied."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section(HEADING.rstrip(":")):
                for line in self.examples.splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Number(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 click calls it with them
        """What stands for it in the help."""
        return "NUMBER"
