"""The demo: two weeks of real short-video impressions through joiner, trainer, parameter sync and two gRPC replicas.

1. A fresh run folder, its TOML files, topics and stored features.
2. History: the first ten days go into the log, the joiner makes examples of them, the trainer learns them in one pass.
3. Live: joiner, trainer, a live and a frozen replica run as processes of their own. Each impression of the last four days is scored by
   both replicas before anything learns from it; what the user did is appended when the play has ended.
4. All processes stop; what they left behind is counted, and the report is written.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

from rich.console import Console

from monolith_demo.dataset.kuairand import HISTORY_DAYS, NUM_DAYS
from monolith_demo.driver.children import Children, ProcessDied
from monolith_demo.driver.job_files import JobFiles, write_job_files
from monolith_demo.driver.phases import Demo
from monolith_demo.driver.services import services
from monolith_demo.report.findings import Findings
from monolith_demo.report.page import print_report, write_html
from monolith_py.errors import MonolithError
from monolith_py.io import open_log
from monolith_py.observe import set_up_logging

# A user with many impressions, and videos that many have seen, for the commands to try.
_USER, _VIDEOS, _TAB = 26469, (2303, 3018, 3159, 445, 4569), 1


def main() -> int:
    """Run the demo and return the exit status."""
    options = _options()
    console = Console(highlight=False)
    set_up_logging("WARNING")
    signal.signal(signal.SIGTERM, _interrupt)
    began_s = time.monotonic()
    try:
        folder = _fresh_folder(options.run_folder)
        with ExitStack() as stack:
            where = stack.enter_context(services(folder, kafka=options.kafka))
            files = write_job_files(folder, where, counters=options.counters)
            console.print(
                f"Run folder {_shown(folder)}: settings, logs of all processes, checkpoints. Log {where.log_url}, store {where.kv_url}"
            )
            log = stack.enter_context(closing(open_log(where.log_url)))
            children = stack.enter_context(Children(folder / "logs"))
            found = Demo(options, files, children, log, console).run()
            _report(found, options, folder, files, console, time.monotonic() - began_s)
            if options.keep:
                children.start("live-replica", "serve", files.live)
                console.print("The live replica is up; Ctrl-C stops it.")
                children.finish("live-replica")
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (ProcessDied, MonolithError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1
    return 1 if found.broken_promises() else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kafka", action="store_true", help="run on a genuine Apache Kafka and Redis, started for the demo")
    parser.add_argument("--counters", action="store_true", help="switch live counters on, which stand in for online training")
    parser.add_argument("--live-seconds", type=float, default=240.0, help="wall-clock time for the last four days")
    parser.add_argument("--days", type=int, default=NUM_DAYS - HISTORY_DAYS, choices=range(1, 5), help="how many of them to replay")
    parser.add_argument("--run-folder", type=Path, default=Path(".run"), help="where the run's folder is made")
    parser.add_argument("--keep", action="store_true", help="leave the live replica (and Kafka and Redis) up at the end, until Ctrl-C")
    return parser.parse_args()


def _fresh_folder(parent: Path) -> Path:
    """Make and return the first `demo-N` that is not there."""
    number = 1 + max((int(path.name[5:]) for path in parent.glob("demo-*") if path.name[5:].isdigit()), default=0)
    folder = parent.absolute() / f"demo-{number}"
    folder.mkdir(parents=True)
    return folder


def _report(found: Findings, options: argparse.Namespace, folder: Path, files: JobFiles, console: Console, took_s: float) -> None:
    print_report(found, console)
    commands = _commands(files, options)
    page = folder / "report.html"
    write_html(found, _notes(found, options), commands, page)
    shutil.copyfile(page, folder.parent / "demo-report.html")
    console.print(f"\nReport with plots: {_shown(page)}, the latest also {_shown(folder.parent / 'demo-report.html')}")
    console.print(f"Took {took_s:.0f} s: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found.took_s.items()))
    for promise in found.broken_promises():
        console.print(f"BROKEN: {promise}", style="red", markup=False)
    console.print("\nTo try next:")
    for command in commands:
        console.print(f"  {command}", soft_wrap=True, markup=False)
    console.print()
    for name, value, unit in found.figures():
        console.print(f"figure {name} {value:.6g} {unit}")


def _notes(found: Findings, options: argparse.Namespace) -> list[str]:
    counters = "Live counters were on, which stand in for online training." if options.counters else "Live counters were off."
    return [
        f"{found.history_impressions:,} impressions of KuaiRand's first {HISTORY_DAYS} days were learnt as history, in one pass. "
        f"The next {len(found.days):,} were scored over gRPC by two replicas before anything learnt from them, "
        f"in {found.live_s:.0f} s of wall clock: the live one follows the trainer, the frozen one stayed at the end of history. {counters}",
        "The running rate of each video and the linear learner are computed beside the system and learn from every impression at once; "
        "what the trainer learns from comes at the end of the play, or after ten minutes where there was none.",
        "Data: KuaiRand-Pure, Gao et al., CIKM 2022, https://kuairand.com, CC BY-SA 4.0.",
    ]


def _commands(files: JobFiles, options: argparse.Namespace) -> list[str]:
    live, videos = _shown(files.live), ",".join(map(str, _VIDEOS))
    monolith = f"{_shown(Path(sys.executable).parent / 'monolith')}"
    rank = f"{monolith} rank --config {live} --user {_USER} --candidates {videos} --context tab={_TAB}"
    if options.kafka and not options.keep:
        return [
            f"{_shown(Path(sys.executable))} -m monolith_demo --kafka --keep    # leaves Kafka, Redis and the live replica up; then",
            rank,
        ]
    replay = f"{monolith} replay --config {live} --start 2022-05-05 --end 2022-05-06    # the same joiner, as a Beam pipeline"
    if options.keep:
        return [rank, replay]
    return [f"{monolith} serve --config {live} &", rank, replay]


def _shown(path: Path) -> str:
    """Return the path as it is shorter to type."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
