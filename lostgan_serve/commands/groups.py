"""Options in groups: a command's help shows each group under a title of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click


class GroupedOption(click.Option):
    """An option of a group. group: the title that it stands under."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help shows options in groups. Those without one stand last, under "Other"."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for option in sorted(options, key=lambda option: not hasattr(option, "group")):
            if record := option.get_help_record(ctx):
                groups.setdefault(getattr(option, "group", "Other"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


def grouped(group: str) -> Callable[..., Callable[[Any], Any]]:
    """`click.option` for the options of a group."""
    return partial(click.option, cls=GroupedOption, group=group)
