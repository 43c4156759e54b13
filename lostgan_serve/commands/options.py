"""Options in groups, each under a title of its own in a command's help, and options that take lists."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import click

T = TypeVar("T")


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


class Number(click.FloatRange):
    """A number from `min` to `max`, which NaN is not. (It compares as neither below nor above either, so click takes
    it.)"""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


class ListOf(click.ParamType[tuple[T, ...]]):
    """A list with commas between, such as "1,4". name: how help calls it. parse: an item's value; raises ValueError, in
    the words of an error message, for an item that is none."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name, self._parse = name, parse

    def convert(
        self, value: str | tuple[T, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[T, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._parse(item.strip()) for item in value.split(","))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """A `parse` for `ListOf` that takes these words."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"there is no {text!r}; choose from {','.join(names)}")
        return text

    return parse


class Fields(click.ParamType[T]):
    """Numbers for the fields of a dataclass, such as "shift=0.1,flip=0.5". Each field is made by `recipe.bounded`."""

    name = "NAME=NUMBER,..."

    def __init__(self, kind: Callable[..., T]) -> None:
        self._kind = kind
        self._fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(cast(Any, kind))}

    def help(self, purpose: str) -> str:
        """A help text: its purpose and each field with its bounds."""
        facts = [
            f"{name}, {field.metadata['least']:g} to {field.metadata['most']:g}: {field.metadata['description']}"
            for name, field in self._fields.items()
        ]
        return f"{purpose}. {'; '.join(facts)}."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            return cast(T, value)
        numbers = {}
        for item in value.split(","):
            name, _, text = item.strip().partition("=")
            if name not in self._fields:
                self.fail(f"there is no {name!r}; choose from {', '.join(self._fields)}", param, ctx)
            bounds = self._fields[name].metadata
            number = Number(bounds["least"], bounds["most"]).convert(text, param, ctx)
            numbers[self._fields[name].name] = number
        return self._kind(**numbers)


def grouped(group: str) -> Callable[..., Callable[[Any], Any]]:
    """`click.option` for the options of a group."""
    return partial(click.option, cls=GroupedOption, group=group)
