"""The command line. Each command is in a module of its own, imported when it is called."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from stabfw.errors import Exit, StabfwError

#: Commands in the order of `--help`: the module that has the `command`, and what it does.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("stabfw.cli.init", "Write a commented spec to start from."),
    "check": ("stabfw.cli.check", "Check a plugin against the contracts."),
    "plan": ("stabfw.cli.plan", "Show what a run would compute, without computing it."),
    "fit": ("stabfw.cli.fit", "Calibrate or train the accelerators of a stack."),
    "run": ("stabfw.cli.run", "Run an experiment, or what is left of it."),
    "gate": ("stabfw.cli.gate", "Judge a finished experiment by the gates of its spec."),
    "canary": ("stabfw.cli.canary", "Export questions that flip easily, as a regression test."),
    "rescore": ("stabfw.cli.rescore", "Read and score stored answers anew, without a model."),
    "show": ("stabfw.cli.show", "Show the results of a run."),
    "import": ("stabfw.cli.import_", "Read a log of another harness."),
    "compare": ("stabfw.cli.compare", "Compare two runs, or two files of answers."),
    "sync": ("stabfw.cli.sync", "Publish a finished run to MLflow."),
    "ui": ("stabfw.cli.ui", "Open the MLflow pages of the experiments."),
    "flops": ("stabfw.cli.flops", "Compute FLOPs and bytes of a model without its weights."),
    "plugins": ("stabfw.cli.plugins", "List installed plugins, or show one."),
    "schema": ("stabfw.cli.schema", "Write the JSON Schema of specs, for editors."),
}

#: Of an error that is nobody's mistake but ours; no outcome of an experiment has this code.
BUG = 70


@dataclass
class State:
    """Options of `stabfw` itself; commands find them in `click.Context.obj`."""

    debug: bool = False


class LazyGroup(click.Group):
    """Commands by the table above, so that `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or say which one may have been meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import stabfw

        click.echo(f"stabfw {stabfw.__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  stabfw init\n  stabfw run spec.yaml",
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_obj
def cli(state: State, debug: bool) -> None:
    """Tell whether an accelerated vision-language model still gives the same answers.

    Exit codes: 0 ok, 1 gate failed, 2 spec or usage, 3 plugin, 4 incomplete, 5 inconclusive,
    6 not measurable, 130 interrupted. Where several are true, the first of 2, 3, 4, 1, 6, 5.
    """
    state.debug = debug


def main(args: Sequence[str] | None = None) -> None:
    """Run `stabfw` and exit.

    A command ends with the exit code that it returns, 0 for None, or with that of its error.
    """
    sys.exit(invoke(args))


def invoke(args: Sequence[str] | None = None) -> int:
    """Run `stabfw` and return its exit code."""
    state = State()
    try:
        result: Any = cli.main(args, prog_name="stabfw", obj=state, standalone_mode=False)
        return int(result or Exit.OK)
    except StabfwError as error:
        _fail(str(error), state)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except click.Abort:
        click.secho("Interrupted.", fg="red", err=True)
        return Exit.INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}. This is a bug, please report it", State())
        return BUG


def _fail(message: str, state: State) -> None:
    if state.debug:
        traceback.print_exc()
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
