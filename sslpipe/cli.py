"""The `sslpipe` command: a function a command, whose docstring is what its `--help` says."""

from __future__ import annotations

import argparse
import inspect
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sslpipe import __version__
from sslpipe.console.errors import UserError

# Each command imports what it needs itself: torch alone takes seconds, and `sslpipe --help` is to answer at once.

Options = argparse.Namespace
EPILOG = """\
The pipeline itself runs by `dvc repro` (or `make repro`), switched by params.yaml:
  edit `pretrain.method: byol` and `dvc repro`      re-runs only what must
  dvc exp run -S pretrain.method=mae                the same, as an experiment of its own
  dvc exp show                                      all experiments as a table
  sslpipe ui                                        all runs in MLflow's pages
"""


def check(options: Options) -> None:
    """Validate params.yaml, the data, the networks and the environment; show the resolved view recipe.

    MLflow's store is tried for two seconds. One that is away is a note, not an error: stages run without it.
    """
    from sslpipe.check import check

    for line in check(options.params, tracking=not options.quiet):
        if not options.quiet:
            print(line)


def settings(options: Options) -> None:
    """Print every setting of a section with its value by params.yaml, its default where that is another, and its meaning.

    A SECTION is named as in params.yaml; `methods` are the settings of the chosen method, `methods.NAME` of another.
    """  # noqa: E501 (120 columns when printed)
    from sslpipe.describe import describe_settings
    from sslpipe.settings import load

    width = shutil.get_terminal_size((160, 24)).columns
    print(describe_settings(load(options.params), options.sections, width))


def preset(options: Options) -> None:
    """List the presets, or write one out as a whole params.yaml, and say which settings differ from before.

    A params.yaml with changes that are not in git is left as it is, unless --force is given.
    """
    from sslpipe import presets

    if options.name is None:
        print(presets.listing())
        return
    for line in presets.write(options.name, Path(options.out), force=options.force):
        print(line)


def methods(options: Options) -> None:
    """List the methods with paper and backbones; with a NAME, its settings with the paper's defaults."""
    from sslpipe.describe import describe_method, list_methods

    print(describe_method(options.name) if options.name else list_methods())


def recipe(options: Options) -> None:
    """Translate the settings of a method's paper to another scale, and say what may go wrong there.

    What is printed is YAML for params.yaml: `pretrain` and `methods.METHOD`, each value with the paper's and the rule
    that it was translated by. What the paper has at every scale, or the defaults already scale, is left out. Rules:
      lr             the paper's own: times batch / 256, times the root of the batch, or absolute
      warm-up        the same share of a shorter run, a fifth at most
      momentum       the half-life is the same share of the run: m^(B'/B) for another batch (Busbridge et al. 2023);
                     MoCo's m^(B'/B) alone, with a half-life of a tenth of the run at most
      queue          whole batches, a quarter of the images at most
      prototypes     and words of BEiT's tokenizer: by the square root of the images; frozen for the paper's epochs
    Where a paper has several runs (BYOL's 40 to 1000 epochs, SwAV's small batch), the nearest one is translated.
    It is a start, not an optimum: what `pretrain.defaults: small` has for small data was found by trying.

    examples:
      sslpipe recipe byol --batch 256 --epochs 200 --images 50000
      sslpipe recipe mocov3 --batch 1024 --epochs 300 --images 1281167 --backbone timm:vit_small_patch16_224
    """
    from sslpipe.advice import advise, render
    from sslpipe.methods.base.scale import Scale

    here = Scale(batch=options.batch, epochs=options.epochs, images=options.images)
    print(render(advise(options.name, here, options.backbone)))


def profile(options: Options) -> None:
    """Train a few steps by params.yaml on the shards that are there (`dvc repro views` makes them), phase by phase and then as
    training does. Prints a table, what to change, and the path of a picture. Nothing is kept of the training.
    """  # noqa: E501 (120 columns when printed)
    from sslpipe.settings import load
    from sslpipe.training import profile

    own = load(options.params, sections=("seed", "pretrain", "method", "views", "loader"))
    for line in profile.run(own.setup, steps=options.steps, out=options.out):
        print(line)


def table(options: Options) -> None:
    """Print the results of the current run."""
    from sslpipe.report.table import summary_table

    print(summary_table("."))
    print("MLflow  make ui, or: sslpipe ui")


def compare(options: Options) -> None:
    """Set runs side by side: scores, differences with their 95 % intervals, settings that differ, cost. Prints a table and
    writes a self-contained page. A RUN is one of
      .              the workspace
      NAME           a DVC experiment (`dvc exp show`), or a git revision whose dvc.lock is committed
      FOLDER         the folder of another run
      mlflow:KEY     one of MLflow's rows, by the short key at the end of its name
    """  # noqa: E501 (120 columns when printed)
    from sslpipe.compare import compare
    from sslpipe.compare import page as compare_page
    from sslpipe.settings import load

    runs = compare.load(options.runs, Path("."), lambda file: load(file, sections=()).flat())
    print(compare.table(runs))
    print(f"\npage    {compare_page.build(runs, Path(options.out))}")


def sync(options: Options) -> int:
    """Rebuild MLflow's rows from runs/*.json and scratch. Running it twice changes nothing.

    With --follow, MLflow shows running stages as they go, and catches up with earlier runs that it could not be told of.
    Every stage starts this by itself, so that you need it only where you want to see what it does. It ends by Ctrl-C, or
    when no stage has run for 30 s.
    """  # noqa: E501 (120 columns when printed)
    from sslpipe.resolve import resolve_all
    from sslpipe.settings import load
    from sslpipe.tracking.experiments import experiment_key
    from sslpipe.tracking.sync import sync

    if options.follow:
        _follow()
        return 0
    found = load(sections=("seed", "tracking"))
    if not found.tracking.enabled:
        print("tracking.enabled is false in params.yaml: nothing to bring up to date")
        return 0
    try:
        resolved = resolve_all(found)
    except UserError:  # such as images that are not there any more: no row for the workspace
        resolved = None
    key = None if resolved is None else experiment_key(resolved)
    summary = sync(found.tracking, key=key, params=found.flat(), resolved=resolved, force=not options.lenient)
    print(summary, file=sys.stderr if summary.error else sys.stdout)
    return 1 if summary.error and not options.lenient else 0


def _follow() -> None:
    from sslpipe.core import scratch
    from sslpipe.tracking.sync import IDLE, follow

    os.nice(10)  # the pipeline goes first
    os.chdir(scratch.root())  # the workspace of an experiment, where a stage may start this, is soon deleted
    end = f"until none has for {IDLE:.0f} s (Ctrl-C ends it sooner)"
    print(f"following the stages that run, {end}", flush=True)
    if not follow(say=lambda line: print(line, flush=True)):
        print("another process follows them already: the first stage started it")


def ui(options: Options) -> None:
    """Open MLflow's pages on localhost."""
    from sslpipe.settings import load
    from sslpipe.tracking.artifacts import follow_move_in_turn
    from sslpipe.tracking.store import store_uri, ui_address, ui_command
    from sslpipe.tracking.trouble import trouble

    tracking = load(sections=("tracking",)).tracking
    uri = store_uri(tracking.uri)
    try:
        follow_move_in_turn(uri, tracking.experiment)
    except Exception as error:  # the other pages can be shown
        print(f"note: {trouble(error, uri).why}", file=sys.stderr)
    command, environment = ui_command(tracking, port=options.port)
    address = ui_address(tracking, port=options.port)
    print(f"MLflow opens in about 20 s on {address}  (Ctrl-C ends it)", flush=True)
    os.execvpe(command[0], command, environment)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        code = int(options.run(options) or 0)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"sslpipe {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads this, such as `head`, has seen enough
        # What is left is not written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    as_written = argparse.RawDescriptionHelpFormatter
    about = "Unlabelled images in, an evaluated, exportable vision encoder out."
    top = argparse.ArgumentParser(
        prog="sslpipe", description=about, epilog=EPILOG, formatter_class=as_written
    )
    top.add_argument("--version", action="version", version=f"sslpipe {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run: Callable[[Options], int | None], summary: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            run.__name__, help=summary, description=inspect.getdoc(run), formatter_class=as_written
        )
        one.set_defaults(run=run)
        return one

    params: dict[str, Any] = {"default": "params.yaml", "metavar": "FILE", "help": "default: params.yaml"}
    # In the order in which they are needed: to begin, to set, to look before a run, and to look after it.
    one = command(preset, "list the presets, or write one to params.yaml")
    one.add_argument("name", nargs="?", metavar="NAME", help="a preset, to write it out")
    one.add_argument("--out", **params)
    one.add_argument("--force", action="store_true", help="write over changes that are not in git")

    one = command(methods, "list the methods, or one method's settings")
    one.add_argument("name", nargs="?", metavar="NAME", help="a method, to see its settings")

    one = command(settings, "every setting: its value here, its default, its meaning")
    sections = "such as pretrain or knn; default: all"
    one.add_argument("sections", nargs="*", metavar="SECTION", help=sections)
    one.add_argument("--params", **params)

    one = command(recipe, "a paper's settings translated to your batch, epochs and images")
    one.add_argument("name", metavar="METHOD", help="one of `sslpipe methods`")
    for option, letter, meaning in (
        ("--batch", "B", "images an optimiser step, over all devices"),
        ("--epochs", "E", "of the whole run"),
        ("--images", "N", "of the training split"),
    ):
        one.add_argument(option, type=int, required=True, metavar=letter, help=meaning)
    backbone = "as pretrain.backbone; MoCo v3's settings depend on its kind (default: auto)"
    one.add_argument("--backbone", default="auto", metavar="NAME", help=backbone)

    one = command(check, "validate params.yaml and the environment before any long work")
    one.add_argument("--params", **params)
    one.add_argument("--quiet", action="store_true", help="say nothing unless something is wrong")

    one = command(profile, "measure where a training step's time goes, and what to change")
    one.add_argument("--params", **params)
    one.add_argument("--steps", type=int, default=20, metavar="N", help="steps to measure, default: 20")
    one.add_argument("--out", metavar="FILE", help="the picture, an SVG; default: .sslpipe/profile.svg")

    command(table, "print the results of the current run")

    one = command(compare, "several runs side by side, with the uncertainty of what they differ by")
    runs, page = "two to eight; the first is what others differ from", "report/compare.html"
    one.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    one.add_argument("--out", default=page, metavar="FILE", help=f"default: {page}")

    one = command(ui, "open MLflow's pages on localhost")
    one.add_argument("--port", type=int, default=5000, help="default: 5000")

    either = command(
        sync, "bring MLflow up to date from the files every stage leaves"
    ).add_mutually_exclusive_group()
    either.add_argument("--lenient", action="store_true", help="exit 0 also when the tracking server is away")
    until = "show stages while they run, until Ctrl-C or until none has run for 30 s"
    either.add_argument("--follow", action="store_true", help=until)
    return top
