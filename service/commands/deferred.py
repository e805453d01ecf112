"""Groups of commands whose modules are loaded when they are called: to sign, nobody waits for a database's library."""

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group


class Deferred(TyperGroup):
    """A group with commands of its own, and `modules`: names of further ones, each with the module that has it.

    Either as "module", whose `app` is the group of that name, or as "module:function", one command.
    """

    modules: ClassVar[Mapping[str, str]]

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, those of other modules last."""
        return [*super().list_commands(ctx), *self.modules]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, its module loaded; None where there is none such."""
        if cmd_name not in self.modules:
            return super().get_command(ctx, cmd_name)
        name, _, function = self.modules[cmd_name].partition(":")
        module = importlib.import_module(f"service.commands.{name}")
        if function:
            one = typer.Typer(add_completion=False)
            one.command(cmd_name)(getattr(module, function))
            return get_command(one)
        group = get_group(module.app)
        group.name = cmd_name
        return group
