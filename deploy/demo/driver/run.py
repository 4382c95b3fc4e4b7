"""Demos of online learning: a stream of impressions through joiner, trainer,
parameter sync and gRPC replicas. Without --list: two weeks of real
short-video impressions (KuaiRand), ten days of history and four live. With
--list: three days of generated news-like lists, two of history and one live,
with replicas that are refreshed hourly and daily beside the live one.

1. Prepare: a run folder with job files; topics; stored features.
2. History is written to the log, joined to examples and trained in one pass.
3. Live: a live and a frozen replica score each request before any model
   learns from it; its actions follow at their time.
4. End: the processes stop, the records in the log are counted, the report is
   written.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from monolith_demo.dataset.kuairand import HISTORY_DAYS, NUM_DAYS
from monolith_demo.driver.children import Children, ProcessDied
from monolith_demo.driver.context import RunContext
from monolith_demo.driver.demo import KUAIRAND
from monolith_demo.driver.job_files import JobFiles, write_job_files
from monolith_demo.driver.list_demo import LIST
from monolith_demo.driver.outcome import Demo, Outcome
from monolith_demo.driver.services import services
from monolith_demo.report.page import Surroundings, print_report, write_html
from monolith_demo.report.provenance import provenance
from monolith_py.errors import MonolithError
from monolith_py.io import open_log
from monolith_py.observe import set_up_logging


def main() -> int:
    """Run the demo and return the exit status."""
    options = parse_options(sys.argv[1:])
    console = Console(highlight=False)
    set_up_logging("WARNING")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options, console)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (ProcessDied, MonolithError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1


def _run(options: argparse.Namespace, console: Console) -> int:
    began_s = time.monotonic()
    demo = LIST if options.list else KUAIRAND
    folder = _fresh_folder(options.run_folder)
    with ExitStack() as stack:
        where = stack.enter_context(services(folder, kafka=options.kafka, num_batch=len(demo.batch)))
        files = write_job_files(folder, where, counters=options.counters, template=demo.template, batch=demo.batch)
        console.print(f"Run folder {_shown(folder)}: job files, process logs, checkpoints. Log {where.log_url}, store {where.kv_url}")
        log = stack.enter_context(closing(open_log(where.log_url)))
        children = stack.enter_context(Children(folder / "logs"))
        took_s: dict[str, float] = {}
        outcome = demo.play(lambda data: RunContext(data, files, files.job, children, log, _progress(console), took_s), options)
        _report(outcome, demo, options, files, console)
        console.print(f"\nTook {time.monotonic() - began_s:.0f} s: " + ", ".join(f"{name} {s:.0f} s" for name, s in took_s.items()))
        if options.keep:
            children.start("live-replica", "serve", files.live)
            console.print("The live replica is running; Ctrl-C stops it.")
            children.finish("live-replica")
    return 1 if outcome.broken_promises else 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line; a wrong one ends the process with status 2."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m monolith_demo", description=__doc__, formatter_class=formatter)
    parser.add_argument("--list", action="store_true", help="run the list-wise demo; the default is KuaiRand")
    parser.add_argument("--kafka", action="store_true", help="start Apache Kafka and Redis and run on them; the default is SQLite files")
    parser.add_argument("--counters", action="store_true", help="turn live counters on; with them a frozen model is as good as a live one")
    parser.add_argument(
        "--live-seconds",
        type=float,
        default=240.0,
        metavar="S",
        help="wall-clock seconds for four live days, with --list for the one (default 240)",
    )
    parser.add_argument(
        "--days",
        type=int,
        default=NUM_DAYS - HISTORY_DAYS,
        choices=range(1, NUM_DAYS - HISTORY_DAYS + 1),
        help="number of live days to replay (default 4)",
    )
    parser.add_argument("--run-folder", type=Path, default=Path(".run"), metavar="DIR", help="parent of the run's folder (default .run)")
    parser.add_argument("--keep", action="store_true", help="keep the live replica (and Kafka and Redis) running until Ctrl-C")
    options = parser.parse_args(arguments)
    if options.list and (options.counters or options.days != NUM_DAYS - HISTORY_DAYS):
        parser.error("--counters and --days must not come with --list")
    return options


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)


def _fresh_folder(parent: Path) -> Path:
    """Make and return the next folder `demo-N` in `parent`."""
    number = 1 + max((int(path.name[5:]) for path in parent.glob("demo-*") if path.name[5:].isdigit()), default=0)
    folder = parent.absolute() / f"demo-{number}"
    folder.mkdir(parents=True)
    return folder


def _report(outcome: Outcome, demo: Demo, options: argparse.Namespace, files: JobFiles, console: Console) -> None:
    """Print the report, and write it as a page into the run's folder and its parent."""
    around = Surroundings(provenance(), outcome.notes, _commands(files, demo, options))
    print_report(outcome.contents, around.provenance, console)
    folder = files.live.parent
    page, latest = folder / "report.html", folder.parent / demo.page
    write_html(outcome.contents, around, page)
    shutil.copyfile(page, latest)
    console.print(f"\nReport with plots: {_shown(page)}; copy of the latest: {_shown(latest)}")
    for promise in outcome.broken_promises:
        console.print(f"BROKEN: {promise}", style="red", markup=False)
    console.print("\nTo try next:")
    for command in around.commands:
        console.print(f"  {command}", soft_wrap=True, markup=False)
    console.print()
    for name, value, unit in outcome.figures:
        console.print(f"figure {name} {value:.6g} {unit}")


def _commands(files: JobFiles, demo: Demo, options: argparse.Namespace) -> list[str]:
    """Return shell commands to try on the run's job."""
    live = _shown(files.live)
    monolith = f"{_shown(Path(sys.executable).parent / 'monolith')}"
    rank = f"{monolith} rank --config {live} {demo.rank_flags}"
    if options.kafka and not options.keep:
        again = f"{_shown(Path(sys.executable))} -m monolith_demo {'--list ' if options.list else ''}--kafka --keep"
        return [f"{again}    # keeps Kafka, Redis and the live replica running; then", rank]
    replay = f"{monolith} replay --config {live} {demo.replay_flags}    # the same joiner, as a Beam pipeline"
    return [rank, replay] if options.keep else [f"{monolith} serve --config {live} &", rank, replay]


def _shown(path: Path) -> str:
    """Return the path relative to the current folder if it lies inside."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
