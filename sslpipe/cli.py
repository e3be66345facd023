"""The `sslpipe` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslpipe import __version__
from sslpipe.console.errors import UserError
from sslpipe.settings import Settings

EPILOG = """\
The pipeline itself runs by `dvc repro` (or `make repro`), switched by params.yaml:
  edit `pretrain.method: byol` and `dvc repro`      re-runs only what must
  dvc exp run -S pretrain.method=mae                the same, as an experiment of its own
  dvc exp show                                      all experiments as a table
  sslpipe ui                                        all runs in MLflow's pages
"""

RECIPE = """\
Translate the settings of a method's paper to another scale, and say what may go wrong there.

What is printed is YAML for params.yaml: `pretrain` and `methods.METHOD`, each value with the paper's and the rule
that it was translated by. What the paper has at every scale, or the defaults already scale, is left out. Rules:
  rate           the paper's own: times batch / 256, times the root of the batch, or absolute
  warm-up        the same share of a shorter run, a fifth at most
  momentum       the half-life is the same share of the run: m^(B'/B) for another batch (Busbridge et al. 2023);
                 MoCo's m^(B'/B) alone, with a half-life of a tenth of the run at most
  queue          whole batches, a quarter of the images at most
  prototypes     and words of BEiT's tokenizer: by the square root of the images; frozen for the paper's epochs
Where a paper has several runs (BYOL's 40 to 1000 epochs, SwAV's small batch), the nearest one is translated.
It is a start, not an optimum: what params.yaml has for small data was found by trying.
"""
RECIPE_EXAMPLES = """\
examples:
  sslpipe recipe byol --batch 256 --epochs 200 --images 50000
  sslpipe recipe mocov3 --batch 1024 --epochs 300 --images 1281167 --backbone timm:vit_small_patch16_224
"""


SYNC = """\
Rebuild MLflow's rows from runs/*.json and scratch. Running it twice changes nothing.

With --follow, MLflow shows running stages as they go, and catches up with earlier runs that it could not be told of.
Every stage starts this by itself, so that you need it only where you want to see what it does. It ends by Ctrl-C, or
when no stage has run for 30 s.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except UserError as error:
        print(f"sslpipe {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sslpipe",
        description="Unlabelled images in, an evaluated, exportable vision encoder out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sslpipe {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="validate params.yaml and the environment before any long work",
        description="Validate params.yaml, the data, the networks and the environment; show the resolved view recipe.",
    )
    check.add_argument("--params", default="params.yaml", metavar="FILE", help="default: params.yaml")
    check.add_argument("--quiet", action="store_true", help="say nothing unless something is wrong")
    check.set_defaults(run=_check)

    methods = commands.add_parser(
        "methods",
        help="list the methods, or one method's settings",
        description="List the methods with paper and backbones; with a NAME, its settings with the paper's defaults.",
    )
    methods.add_argument("name", nargs="?", metavar="NAME", help="a method, to see its settings")
    methods.set_defaults(run=_methods)

    profile = commands.add_parser(
        "profile",
        help="measure where a training step's time goes, and what to change",
        description=(
            "Train a few steps by params.yaml on the shards that are there (`dvc repro views` makes them), phase by "
            "phase and then as training does, and print a table, what to change, and the path of a picture. Nothing "
            "is kept of the training."
        ),
    )
    profile.add_argument("--params", default="params.yaml", metavar="FILE", help="default: params.yaml")
    profile.add_argument("--steps", type=int, default=20, metavar="N", help="steps to measure, default: 20")
    profile.add_argument("--out", metavar="FILE", help="the picture, an SVG; default: .sslpipe/profile.svg")
    profile.set_defaults(run=_profile)

    recipe = commands.add_parser(
        "recipe",
        help="a paper's settings translated to your batch, epochs and images",
        description=RECIPE,
        epilog=RECIPE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipe.add_argument("name", metavar="METHOD", help="one of `sslpipe methods`")
    recipe.add_argument(
        "--batch", type=int, required=True, metavar="B", help="images an optimiser step, over all devices"
    )
    recipe.add_argument("--epochs", type=int, required=True, metavar="E", help="of the whole run")
    recipe.add_argument("--images", type=int, required=True, metavar="N", help="of the training split")
    recipe.add_argument(
        "--backbone",
        default="auto",
        metavar="NAME",
        help="as pretrain.backbone; MoCo v3's settings depend on its kind (default: auto)",
    )
    recipe.set_defaults(run=_recipe)

    sync = commands.add_parser(
        "sync",
        help="bring MLflow up to date from the files every stage leaves",
        description=SYNC,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    how = sync.add_mutually_exclusive_group()
    how.add_argument("--lenient", action="store_true", help="exit 0 also when the tracking server is away")
    how.add_argument(
        "--follow",
        action="store_true",
        help="show stages while they run, until Ctrl-C or until none has run for 30 s",
    )
    sync.set_defaults(run=_sync)

    table = commands.add_parser("table", help="print the results of the current run")
    table.set_defaults(run=_table)

    compare = commands.add_parser(
        "compare",
        help="several runs side by side, with the uncertainty of what they differ by",
        description=(
            "Set runs side by side: scores, differences with their 95 % intervals, settings that differ, cost. "
            "Prints a table and writes a self-contained page. A RUN is `.` (the workspace), a DVC experiment "
            "(`dvc exp show`), a git revision whose dvc.lock is committed, the folder of "
            "another run, or `mlflow:KEY`, one of MLflow's rows by the short key at the end of its name."
        ),
    )
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help="two to eight; the first is what others differ from"
    )
    compare.add_argument(
        "--out", default="report/compare.html", metavar="FILE", help="default: report/compare.html"
    )
    compare.set_defaults(run=_compare)

    ui = commands.add_parser("ui", help="open MLflow's pages on localhost")
    ui.add_argument("--port", type=int, default=5000, help="default: 5000")
    ui.set_defaults(run=_ui)
    return parser


def _check(options: argparse.Namespace) -> int:
    from sslpipe.check import check

    for line in check(options.params):
        if not options.quiet:
            print(line)
    return 0


def _methods(options: argparse.Namespace) -> int:
    from sslpipe.check import describe_method, list_methods

    print(describe_method(options.name) if options.name else list_methods())
    return 0


def _profile(options: argparse.Namespace) -> int:
    from sslpipe.settings import load
    from sslpipe.training import profile

    settings = load(options.params, sections=("seed", "pretrain", "method", "views", "loader"))
    for line in profile.run(
        settings.pretrain,
        settings.method,
        seed=settings.seed,
        views=settings.views,
        loading=settings.loader,
        steps=options.steps,
        out=options.out,
    ):
        print(line)
    return 0


def _recipe(options: argparse.Namespace) -> int:
    from sslpipe.advice import advise, render
    from sslpipe.methods.base.scale import Scale

    here = Scale(batch=options.batch, epochs=options.epochs, images=options.images)
    print(render(advise(options.name, here, options.backbone)))
    return 0


def _sync(options: argparse.Namespace) -> int:
    from sslpipe.settings import load
    from sslpipe.tracking.sync import sync

    if options.follow:
        return _follow()
    settings = load(sections=("seed", "tracking"))
    if not settings.tracking.enabled:
        print("tracking.enabled is false in params.yaml: nothing to bring up to date")
        return 0
    key, resolved = _current(settings)
    summary = sync(
        settings.tracking, key=key, params=settings.flat(), resolved=resolved, force=not options.lenient
    )
    print(summary, file=sys.stderr if summary.error else sys.stdout)
    return 1 if summary.error and not options.lenient else 0


def _follow() -> int:
    from sslpipe.core import scratch
    from sslpipe.tracking.sync import IDLE, follow

    os.nice(10)  # the pipeline goes first
    os.chdir(scratch.root())  # the workspace of an experiment, where a stage may start this, is soon deleted
    print(
        f"following the stages that run, until none has for {IDLE:.0f} s (Ctrl-C ends it sooner)", flush=True
    )
    if not follow(say=lambda line: print(line, flush=True)):
        print("another process follows them already: the first stage started it")
    return 0


def _table(options: argparse.Namespace) -> int:
    from sslpipe.report.table import summary_table

    print(summary_table("."))
    print("MLflow  make ui, or: sslpipe ui")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from sslpipe.compare import compare
    from sslpipe.compare import page as compare_page
    from sslpipe.settings import load

    runs = compare.load(options.runs, Path("."), lambda file: load(file, sections=()).flat())
    print(compare.table(runs))
    print(f"\npage    {compare_page.build(runs, Path(options.out))}")
    return 0


def _ui(options: argparse.Namespace) -> int:
    from sslpipe.settings import load
    from sslpipe.tracking.ui import ui_address, ui_command

    tracking = load(sections=("tracking",)).tracking
    command, environment = ui_command(tracking, port=options.port)
    print(
        f"MLflow opens in about 20 s on {ui_address(tracking, port=options.port)}  (Ctrl-C ends it)",
        flush=True,
    )
    os.execvpe(command[0], command, environment)
    return 0


def _current(settings: Settings) -> tuple[str, dict[str, Any]] | tuple[None, None]:
    """The key of the workspace's experiment, and what its stages rest on; nothing where that cannot be told."""
    from sslpipe.resolve import key_of, resolve_all

    try:
        resolved = resolve_all(settings)
    except UserError:  # such as images that are not there any more
        return None, None
    return key_of(resolved), resolved
