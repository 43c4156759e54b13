"""Options of commands from a `Settings` class: its fields are the options, in its groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click

from lostgan_train.settings import Schedule, Settings, bounds, option_name


class ScheduleType(click.ParamType):  # type: ignore[type-arg] # generic from click 8.5 on
    """A weight, or weights at steps."""

    name = "weight"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text of an option. Fails as click's types do."""
        try:
            return Schedule.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SettingOption(click.Option):
    """The option of a field; None or () where the user did not give it, so that a file's value can count."""

    def __init__(self, name: str, default: Any, about: dict[str, Any]) -> None:
        kind, help_text = about["kind"], about["help"]
        if default is MISSING:
            help_text += "  [required]"
        elif default is not None and default != () and not isinstance(default, bool):
            help_text += f"  [default: {default}]"
        if limits := bounds(about):
            help_text += f"  [{limits}]"
        self.group = about["group"]
        if kind is bool:
            names, usual = f"{option_name(name)}/--no-{name.replace('_', '-')}", "yes" if default else "no"
            super().__init__([names], default=None, help=f"{help_text}  [default: {usual}]")
            return
        type_: Any = click.Choice(about["choices"]) if about["choices"] else _TYPES.get(kind, kind)
        super().__init__(
            [option_name(name)], type=type_, multiple=kind is tuple, help=help_text, metavar=about["metavar"]
        )


_TYPES: dict[type, Any] = {Schedule: ScheduleType(), Path: click.Path(path_type=Path, readable=False), tuple: str}


def settings_options(kind: type[Settings]) -> Callable[[click.Command], click.Command]:
    """A decorator that adds the options of a settings class to a `GroupedCommand`; they come as one keyword each."""

    def add(command: click.Command) -> click.Command:
        order = list(dict.fromkeys(item.metadata["group"] for item in fields(kind)))
        options = [SettingOption(item.name, item.default, dict(item.metadata)) for item in fields(kind)]
        options.sort(key=lambda option: order.index(option.group))
        command.params.extend(options)
        return command

    return add


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave."""
    return {name: value for name, value in options.items() if value not in (None, ())}
