"""TABLE.md and its plots: tables of what was measured, and sentences made of the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from intervals import half_width, half_width_of_resamples
from matplotlib.figure import Figure
from passes import Outcome
from streams import Columns
from variants import COLLISIONS, COUNTERS, CRITEO, EXACT, FORGETTING, Variant, md5_bucket

from monolith_py.table import EmbeddingTable, Sgd

# Monolith's Table 1: ids, and how many are told apart after hashing.
MONOLITH_TABLE_1 = {"users": (162_541, 149_970), "movies": (59_047, 57_361)}
# What the two sentences on forgetting ask: what this much AUC buys, and what costs how much within this distance of half of the rows.
CHEAP = 0.001
NEAR_HALF = 0.15

Results = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Finding:
    """A variant against its reference: means over seeds, with half-widths of 95 % intervals."""

    variant: Variant
    is_reference: bool
    auc: float
    normalized_entropy: float
    lost: float  # AUC of the reference less that of the variant, same seeds
    over_seeds: float
    over_users: float
    rows: int
    share: float  # of the reference's rows
    megabytes: float

    @property
    def lost_text(self) -> str:
        """Return the loss and its interval over seeds."""
        return f"{self.lost:.4f}{_plus_minus(self.over_seeds)}"

    @property
    def cells(self) -> list[str]:
        """Return what a row of every table says of rows and loss; of the reference itself there is none."""
        losses = ["-", "-"] if self.is_reference else [self.lost_text, _plus_minus(self.over_users).strip()]
        return [f"{self.rows:,}", f"{self.share:.1%}", *losses, f"{self.auc:.4f}"]


def find(results: Results, variant: Variant, reference: Variant) -> Finding:
    """Return the finding of one variant, over the seeds that both have."""
    pairs = list(zip(results[reference.name], results[variant.name], strict=False))
    assert all(exact.seed == own.seed for exact, own in pairs)
    lost = [exact.auc - own.auc for exact, own in pairs]
    resampled = np.mean([exact.resampled - own.resampled for exact, own in pairs], axis=0)
    own = [outcome for _, outcome in pairs]
    rows = np.mean([outcome.most_rows for outcome in own])
    return Finding(
        variant,
        variant is reference,
        float(np.mean([outcome.auc for outcome in own])),
        float(np.mean([outcome.normalized_entropy for outcome in own])),
        float(np.mean(lost)),
        half_width(lost),
        half_width_of_resamples(resampled),
        round(rows),
        float(rows / np.mean([outcome.most_rows for outcome, _ in pairs])),
        float(np.mean([outcome.most_bytes for outcome in own])) / 1e6,
    )


def write_report(folder: Path, results: Results, streams: Mapping[str, Columns], about: str) -> None:
    """Write TABLE.md, table_collisions.png and table_forgetting.png to `folder`."""
    stream = streams["kuairand"]
    collisions = [find(results, variant, EXACT) for variant in COLLISIONS]
    forgetting = [find(results, variant, EXACT) for variant in FORGETTING]
    parts = [
        "# Evidence: the table",
        f"{about} Written by the run: edit the code, not this file.",
        _method(stream, results),
        "## 1. Monolith's own collisions (Liu et al. 2022, Table 1)",
        _monolith_table(),
        "## 2. What collisions cost",
        _collision_table(collisions),
        read_collisions(collisions),
        "![AUC lost by buckets](table_collisions.png)",
        "## 3. The same with exact live counters as features",
        _counter_table(results, next(f for f in collisions if f.variant.fold == "hash" and f.variant.buckets == COUNTERS[1].buckets)),
        "## 4. What filter, TTL and budget save and cost",
        _FORGETTING_TEXT,
        _forgetting_table(forgetting),
        read_forgetting(forgetting, collisions),
        "![AUC lost by rows kept](table_forgetting.png)",
        "## 5. Criteo",
        _criteo(results, streams.get("criteo")),
    ]
    (folder / "TABLE.md").write_text("\n\n".join(parts) + "\n")
    draw_collisions(collisions, folder / "table_collisions.png")
    draw_forgetting(forgetting, collisions, folder / "table_forgetting.png")


_FORGETTING_TEXT = (
    "Rows and MB are the most at one time in the two tables, bytes as the budget counts them: rows with their optimizer state, entries of "
    "fids that wait, sketches (1 MiB each: made for larger tables than these). Shares of a budget are of the bytes of all rows. A row that "
    "is evicted starts anew when its id is seen again."
)


def read_collisions(findings: Sequence[Finding]) -> str:
    """Return in a sentence how far exact is ahead."""
    of = {(finding.variant.fold, finding.variant.buckets): finding for finding in findings}
    parts = [
        f"{of['hash', 1 << 12].lost_text} of 2^12 hashed rows per feature",
        f"{of['hash', 1 << 14].lost_text} of 2^14",
        f"{of['qr_sum', 1 << 12].lost_text} and {of['qr_product', 1 << 12].lost_text} of the quotient-remainder trick with as many rows as "
        "2^12, added and multiplied",
        f"{of['qr_dense', 1 << 12].lost_text} of its product over numbered ids",
    ]
    return f"Exact rows are ahead by {'; '.join(parts)}."


def read_forgetting(forgetting: Sequence[Finding], collisions: Sequence[Finding]) -> str:
    """Return in two sentences what can be saved and what half of the rows cost, from the figures alone."""
    policies = [finding for finding in forgetting if finding.variant is not EXACT and finding.variant.only is None]
    saving = [finding for finding in policies if finding.lost <= CHEAP and finding.share < 1]
    if saving:
        most = min(saving, key=lambda finding: finding.share)
        first = f"The most that {CHEAP} AUC buys is {1 - most.share:.1%} of the rows, by {_called(most)}, at {most.lost_text}"
    else:
        least = min(policies, key=lambda finding: finding.lost)
        first = (
            f"No policy here costs {CHEAP} AUC or less; {_called(least)} costs least, {least.lost_text} with {least.share:.0%} of the rows"
        )
    of = {finding.variant.label: finding.lost_text for finding in forgetting}
    first += f"; a count of 2 costs {of['count, 2']}, for users alone {of['count, 2, users alone']}, for videos alone "
    first += f"{of['count, 2, videos alone']}."
    lines = [min(line, key=_from_half) for line in _lines([*forgetting, *collisions]).values()]
    near = sorted((finding for finding in lines if _from_half(finding) < NEAR_HALF), key=lambda finding: finding.lost)
    costs = ", ".join(f"{_called(finding)} {finding.lost:.4f} with {finding.share:.0%}" for finding in near)
    return f"{first} Near half of the rows, from the least AUC lost to the most: {costs}."


def _from_half(finding: Finding) -> float:
    return abs(finding.share - 0.5)


def _called(finding: Finding) -> str:
    return f"{finding.variant.group} ({finding.variant.label})"


def _method(stream: Columns, results: Results) -> str:
    num_seeds, fewer = len(results[EXACT.name]), len(results[COUNTERS[0].name])
    return (
        f"KuaiRand-Pure as shipped, {len(stream):,} impressions in order of time ({stream.num_ids('user_id'):,} users, "
        f"{stream.num_ids('video_id'):,} videos), label long_view; DeepFM over user, video, author and tab, dim 16, tower 256-128-64, "
        "batch 256, on the project's own tables and model. Each impression is predicted, then learnt, once; AUC and NE are of the last "
        f"{len(stream) - stream.warm_from:,}.\n\n"
        f'Seeds: {num_seeds} in section 2, {fewer} in the others; they change start values, hashes and draws. "AUC lost" is that of '
        'exact rows less that of the variant on the same seeds, with the 95 % interval over seeds (Student\'s t); "over users" is the 95 % '
        "interval of the same difference over users (bootstrap of whole users, the same resamples for both). Settings were chosen on this "
        "very stream: rate and start values of rows as suit exact ids, and for products of two rows as suit products."
    )


def _monolith_table() -> str:
    rows = []
    for name, (num_ids, told_apart) in MONOLITH_TABLE_1.items():
        distinct = len({md5_bucket(number) for number in range(num_ids)})
        table = EmbeddingTable(dim=4, optimizer=Sgd())
        table.find_or_insert(np.arange(num_ids), now_s=0)
        cells = [name, f"{num_ids:,}", f"{told_apart:,}", f"{distinct:,}", f"{1 - distinct / num_ids:.2%}", f"{len(table):,}"]
        rows.append(cells)
    head = ["MovieLens ids", "number", "distinct in the paper", "MD5 of 0, 1, 2, ... mod 10^6", "lost", "rows of our table"]
    return _markdown(head, rows)


def _collision_table(findings: Sequence[Finding]) -> str:
    rows = [[f.variant.group, f.variant.label, *f.cells, f"{f.normalized_entropy:.4f}"] for f in findings]
    return _markdown(["ids", "buckets", *_CELLS, "NE"], rows)


def _counter_table(results: Results, without: Finding) -> str:
    rows, costs = [], []
    for exact, hashed in zip(COUNTERS[::2], COUNTERS[1::2], strict=True):
        pair = [find(results, variant, exact) for variant in (exact, hashed)]
        rows += [[f"{f.variant.recipe.row_lr}", f.variant.label, *f.cells] for f in pair]
        costs.append(f"{pair[1].lost_text} AUC at a rate of {hashed.recipe.row_lr}")
    text = (
        "Counters of user, video, author and tab as the joiner keeps them, of all impressions before, exact whatever becomes of the ids: "
        f"log count, rates of long_view and click. With them {without.variant.label} buckets cost {' and '.join(costs)}, "
        f"without {without.lost_text}."
    )
    return f"{text}\n\n{_markdown(['rate of rows', 'ids', *_CELLS], rows)}"


def _forgetting_table(findings: Sequence[Finding]) -> str:
    rows = [[f.variant.group, f.variant.label, *f.cells, f"{f.megabytes:.2f}"] for f in findings]
    return _markdown(["policy", "setting", *_CELLS, "MB"], rows)


def _criteo(results: Results, stream: Columns | None) -> str:
    if stream is None:
        return (
            "Not in this run: the data may not be shipped. `tests/evidence/table.py --criteo PATH` takes a Parquet file of its layout "
            "(label, I1 to I13, C1 to C26); an excerpt of 80,000 examples was too small to show a cost of collisions."
        )
    findings = [find(results, variant, CRITEO[0]) for variant in CRITEO]
    shown = [f for f in findings[1:] if f.lost - f.over_seeds > 0 and f.lost - f.over_users > 0]
    verdict = "too small to show a cost of collisions" if not shown else f"collisions cost with {', '.join(f.variant.label for f in shown)}"
    text = f"{len(stream):,} examples, the second half scored, each of the 26 categories with its own table, dim 8, batch 128: {verdict}."
    rows = [[f.variant.group, f.variant.label, *f.cells] for f in findings]
    return f"{text}\n\n{_markdown(['ids', 'buckets', *_CELLS], rows)}"


_CELLS = ("rows", "share", "AUC lost", "over users", "AUC")


def _plus_minus(half: float) -> str:
    return "" if np.isnan(half) else f" ± {half:.4f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_collisions(findings: Sequence[Finding], path: Path) -> None:
    """Draw what each way loses by its buckets."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, series in _lines(findings).items():
        buckets, lost, error = zip(*((f.variant.buckets, f.lost, f.over_users) for f in series), strict=True)
        axes.errorbar(buckets, lost, yerr=error, marker="o", capsize=2, label=name)
    axes.set_xscale("log", base=2)
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.set(title="Hashed ids against exact ones", xlabel="buckets m for users and for videos", ylabel="warm AUC lost (95 % over users)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def draw_forgetting(forgetting: Sequence[Finding], collisions: Sequence[Finding], path: Path) -> None:
    """Draw what each policy loses by the rows it keeps, and hashing beside it."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, series in _lines(forgetting).items():
        axes.plot([f.share for f in series], [f.lost for f in series], marker="o", label=name)
    for grey, (name, series) in enumerate(_lines(collisions).items()):
        axes.plot([f.share for f in series], [f.lost for f in series], marker="x", linestyle=":", color=str(0.2 * grey), label=name)
    axes.set_xlim(0, 1.05)  # more rows than exact ids take save nothing
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.set(title="What forgetting costs", xlabel="rows kept, share of all users and videos", ylabel="warm AUC lost")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=90)


def _lines(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Return the findings that belong on one line, by its name, in order of their share; without exact and single features."""
    lines: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.share):
        variant = finding.variant
        if variant is not EXACT and variant.only is None:
            # What stands before the last comma of a label is a kind within the group.
            lines.setdefault(variant.label.rpartition(", ")[0] or variant.group, []).append(finding)
    return lines
