"""The command ``hhrnet``: one file per command, gathered here."""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from hhrnet_deploy.cli import bench, build, calibrate, console, data, demo, doctor, export, models, predict, train
from hhrnet_deploy.cli.compile import compile_
from hhrnet_deploy.cli.eval import eval_
from hhrnet_deploy.cli.help_text import flow_help
from hhrnet_deploy.cli.inspect import inspect
from hhrnet_deploy.errors import HHRNetError, is_memory_full
from hhrnet_deploy.files import is_disk_full

app = typer.Typer(
    name="hhrnet",
    help="HigherHRNet from a PyTorch checkpoint to an engine, with COCO AP measured at both ends.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("models")(models.models)
app.add_typer(data.app)
app.command("doctor")(doctor.doctor)
app.command("export")(export.export)
app.command("calibrate")(calibrate.calibrate)
app.command("build")(build.build)
app.command("predict")(predict.predict)
app.command("bench")(bench.bench)
app.command("eval")(eval_)
app.command("train")(train.train)
app.command("compile")(compile_)
app.command("inspect")(inspect)
app.command("demo")(demo.demo)
flow_help(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hhrnet-deploy {version('hhrnet-deploy')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


def _report(error: HHRNetError) -> int:
    console.log.print("[bold red]error:[/] ", end="")
    console.log.print(str(error), markup=False)
    return error.exit_code


def _as_ours(error: Exception) -> HHRNetError | None:
    """What the user can mend; None for a bug, which keeps its traceback."""
    if isinstance(error, HHRNetError):
        return error
    if is_memory_full(error):
        said = " ".join(str(error).split()).rstrip(".") or "no more could be had"
        return HHRNetError(f"Memory is full: {said}.", hint="Use smaller images or fewer at once.")
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    if is_disk_full(error):
        return HHRNetError(f"The disk is full{where}.", hint="Free some space and run the command again.")
    return HHRNetError(f"{error.strerror or error}{where}.")


def main() -> None:
    """Run the command line; exit 0 ok, 1 error, 2 usage, 3 a gate failed, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name that the terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    # Services and containers are stopped with it: leave as after Ctrl-C, with nothing half-made behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except Exception as error:
        ours = _as_ours(error)
        if ours is None or os.environ.get("HHRNET_DEBUG") == "1":
            raise
        sys.exit(_report(ours))
    except KeyboardInterrupt:
        console.info("interrupted")
        sys.exit(console.INTERRUPTED)
