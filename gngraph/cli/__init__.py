"""The command line. Commands are thin: they read options, call the library and print.

Heavy packages are imported inside the commands, so that `gngraph --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click

from gngraph import __version__
from gngraph.cli.configuration import configurable
from gngraph.cli.deploying import export, verify
from gngraph.cli.growing import extend, grow, replay, reshape, resume, shrink
from gngraph.cli.learning import evaluate, score, train
from gngraph.cli.listing import passes
from gngraph.cli.networks import apply, diff, inspect, seed, show
from gngraph.cli.processes import require_alone
from gngraph.cli.reporting import report
from gngraph.cli.speaking import JSON, print_json, quiet, speaking
from gngraph.errors import GnGraphError, GnGraphNote

__all__ = ["gngraph", "main"]

COMPLETING = "_GNGRAPH_COMPLETE"
"""Variable of the environment by which a shell asks for completions."""

TROUBLE = 1
"""Exit status of a refusal; `gngraph diff` uses 2, as diff(1) does, and so do wrong command lines."""


class _Ordered(click.Group):
    """A group that lists its commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Ordered, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="gngraph %(version)s")
@click.option("--traceback", is_flag=True, help="Show where in the code an error came from.")
@click.pass_context
def gngraph(context: click.Context, traceback: bool) -> None:
    """Grow and shrink PyTorch networks by graph rewrites that a Gauss-Newton model of the loss chooses.

    MODEL is a gngraph archive, the folder of a run, run@3 for the network after its third round, an ONNX or torch.export
    (.pt2) file, a whole module saved by torch.save, a state dict with --arch, or pkg.module:factory.
    """
    require_alone(str(context.invoked_subcommand))


for _command in (
    seed,
    inspect,
    show,
    train,
    evaluate,
    score,
    passes,
    apply,
    grow,
    extend,
    reshape,
    shrink,
    resume,
    replay,
    report,
    diff,
    export,
    verify,
):
    gngraph.add_command(speaking(configurable(_command)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 refused, 2 wrong usage (`diff`: 0 same, 1 different, 2 trouble).

    Args:
        arguments: words after the program's name; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    trouble = 2 if next((word for word in arguments if not word.startswith("-")), "") == "diff" else TROUBLE
    with warnings.catch_warnings():
        if "--traceback" not in arguments:
            warnings.simplefilter("ignore")  # of libraries about themselves; a person can do nothing about them
        warnings.simplefilter("always", GnGraphNote)
        warnings.showwarning = _told(warnings.showwarning)
        return _status(arguments, trouble)


def _status(arguments: list[str], trouble: int) -> int:
    try:
        status = gngraph.main(arguments, prog_name="gngraph", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--traceback" in arguments:
            raise
        message, status = _refused(error, trouble)
    except SystemExit as ended:
        if COMPLETING in os.environ:  # the shell's question is answered
            raise
        message, status = (
            f"code of the model or of the data ended the command by sys.exit({ended.code!r}); have it return",
            trouble,
        )
    except KeyboardInterrupt:
        message, status = "interrupted", trouble
    message = " ".join(message.split())
    if not message:
        return status
    if any(word in arguments for word in JSON):
        print_json({"error": message})
    else:
        print(f"gngraph: error: {message}", file=sys.stderr)
    return status


def _told(shown: Callable[..., None]) -> Callable[..., None]:
    """A way to show warnings in which gngraph's own notes are a line each."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, GnGraphNote):
            if not quiet():
                print(f"gngraph: note: {message}", file=sys.stderr)
        else:
            shown(message, category, *place)

    return show


def _refused(error: Exception, trouble: int) -> tuple[str, int]:
    """What is told of an error, and the exit status; "" where it told of itself."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return "", 2
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else "gngraph"
        return f"{error.format_message().rstrip('.')} (see {command} --help)", 2
    if isinstance(error, click.ClickException):
        return error.format_message(), trouble
    if isinstance(error, click.Abort):
        return "interrupted", trouble
    if isinstance(error, GnGraphError):
        return str(error), trouble
    if isinstance(error, OSError):
        where = f"'{error.filename}': " if error.filename is not None else ""
        return f"{where}{error.strerror or error}", trouble
    from gngraph.running.memory import out_of_memory

    if out_of_memory(error):
        return f"memory ran out ({_short(error)}): take a smaller network or smaller batches", trouble
    report = "please report it with the output of gngraph --traceback"
    return f"unexpected {type(error).__name__}: {error}; {report}", trouble


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__
