"""POOL.md and its plot: tables of what was measured, and sentences made of the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pool_passes import PoolOutcome
from pool_speed import Speed
from pool_variants import ALL_LIVE, CONTROLS, EVERYTHING, FEWER, LARGE, PLAIN, POOLS, STATIC, TRIED, PoolVariant
from tower_findings import Difference, paired
from tower_streams import TowerStream

Results = Mapping[str, Sequence[PoolOutcome]]


def write_report(folder: Path, results: Results, stream: TowerStream, speed: Mapping[int, Speed], num_rows: int, about: str) -> None:
    """Write POOL.md and pool_memory.png to `folder`; `speed` is that of tables of `num_rows`."""
    parts = [
        "# Evidence: a pool of atoms in place of rows",
        f"{about} Written by the run: edit the code, not this file.",
        verdict(results),
        "## 1. What was compared",
        _method(stream, results),
        "## 2. AUC by memory",
        _table(results),
        _readings(results),
        "![AUC by memory](pool_memory.png)",
        "## 3. What time it could save",
        _speed(speed, num_rows),
    ]
    (folder / "POOL.md").write_text("\n\n".join(parts) + "\n")
    _draw(results, folder / "pool_memory.png")


def rival_for(results: Results, variant: PoolVariant) -> PoolVariant:
    """Return the best control that needs no more bytes than the variant, or the smallest where all need more."""
    fitting = [control for control in CONTROLS if _mean(results, control, "used_bytes") <= _mean(results, variant, "used_bytes")]
    if not fitting:
        return min(CONTROLS, key=lambda control: _mean(results, control, "used_bytes"))
    return max(fitting, key=lambda control: _auc(results, control))


def verdict(results: Results) -> str:
    """Return whether a pool pays: whether any is better than its rival, with the 95 % intervals over seeds and users both above 0."""
    against = [(variant, to_rival(results, variant)) for variant in (*POOLS, *TRIED)]
    paying = [(variant, gap) for variant, gap in against if gap.low > 0 and gap.mean > gap.over_users]
    if paying:
        where = "; ".join(f"{variant.label} ({_mb(results, variant)} MB): {gap.text}" for variant, gap in paying)
        return f"**It pays** against the best control of no more bytes, in 1e-4 AUC: {where}."
    (far, most), *_, (near, least) = sorted(against, key=lambda pair: pair[1].mean)
    return (
        f"**It does not pay**, at any memory tried: of {len(against)} pools none beats the best control of no more bytes. The nearest "
        f"({near.label}, {_mb(results, near)} MB) stands {least.text} (in 1e-4 AUC) to {rival_for(results, near).name}, the farthest "
        f"({far.label}, {_mb(results, far)} MB) {most.text} to {rival_for(results, far).name}."
    )


def to_rival(results: Results, variant: PoolVariant) -> Difference:
    """Return how far a variant is above its rival."""
    return _gap(results, variant, rival_for(results, variant))


def _method(stream: TowerStream, results: Results) -> str:
    _, warm_from, _ = stream.spans[0]
    rule = POOLS[0].pool
    assert rule is not None
    return (
        f"KuaiRand-Pure as shipped, {len(stream):,} impressions in order of time, label long_view, the demo's {len(stream.features)} "
        f"features without counters; dense DeepFM 256-128-64, batch {stream.batch_size}, Adagrad with an accumulator for each weight, "
        f"fp32. Each impression is predicted, then learnt, once; AUC and NE are of the last {len(stream) - warm_from:,}. All features have "
        f"one dim, and a row for every fid at once and for ever, but for what a line says; budget, admission and TTL are those of "
        f"{', '.join(LARGE)}, which have most of the rows.\n\n"
        "Plain tables, budgets, admission and TTL are the project's own. A pool is a masked prototype with the project's start values and "
        f"rule: with all atoms live it stands {_gap(results, ALL_LIVE, PLAIN[16]).text} to the project's table of dim 16. Its budget is a "
        "share of all atoms that the stream will have, of all features together, and exact: new rows get all their atoms while it lasts; "
        f"from then on every {rule.every} steps {rule.swap:.0%} of the live atoms, those of the least magnitude that are older than "
        f"{rule.grace} steps, give way to as many dead ones of rows seen since, those of the greatest summed gradient. Static atoms are "
        "drawn once. Rules were tried on this very stream; section 2 has the ways that might have done better, too.\n\n"
        "MB are the most at one time, counted as a budget counts them: 8 bytes of fid and 24.6 of id map for each row, 8 for each weight "
        "with its accumulator. A pool is counted at its least: a mask of one bit for each atom (a byte for 2 or 4), none lost to "
        "packing rows of many sizes, and nothing for rows of which no atom lives, nor for the gradients of dead atoms, which must be kept "
        "from swap to swap. With a pointer of 4 bytes for each atom instead, which needs no repacking, it is what the column pointers says."
        f"\n\nSeeds: {len(results[ALL_LIVE.name])}. Differences are in 1e-4 AUC on the same seeds, with the 95 % interval over seeds "
        "(Student's t); users is the 95 % interval of the last difference over users (bootstrap of whole users). The rival is the best of "
        "the project's own tables here that need no more bytes."
    )


def _table(results: Results) -> str:
    head = ["rows", "setting", "rows held", "MB", "pointers", "AUC", "NE", "to plain dim 16", "rival", "to rival", "users"]
    lines = [head, ["---"] * len(head)]
    for variant in EVERYTHING:
        rival, gap = rival_for(results, variant), to_rival(results, variant)
        pointers = f"{_mean(results, variant, 'pointer_bytes') / 1e6:.2f}" if variant.pool else "-"
        beside = ["-"] * 3 if variant in CONTROLS else [rival.name, gap.text, f"± {gap.over_users:.1f}"]
        lines.append(
            [
                variant.group,
                variant.label,
                f"{_mean(results, variant, 'rows'):,.0f}",
                _mb(results, variant),
                pointers,
                f"{_auc(results, variant):.4f}",
                f"{_mean(results, variant, 'normalized_entropy'):.4f}",
                "-" if variant is PLAIN[16] else _gap(results, variant, PLAIN[16]).text,
                *beside,
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _readings(results: Results) -> str:
    """Return in sentences why: what width buys here, and what the choice of atoms does against other choices."""
    dims = ", ".join(f"{_gap(results, plain, PLAIN[16]).text} with {plain.label}" for dim, plain in PLAIN.items() if dim != 16)
    chosen = ", ".join(f"{_gap(results, pool, static).text} ({pool.label})" for pool, static in zip(POOLS, STATIC, strict=True))
    fewer = {budget.label: budget for budget in FEWER if budget.group == "budget, lfu"}
    rows = ", ".join(
        f"{_gap(results, pool, budget).text} ({pool.label}, {_mb(results, pool)} MB; {_mb(results, budget)} MB)"
        for pool, budget in zip(POOLS, list(fewer.values())[:4], strict=True)
    )
    swapped = _mean(results, POOLS[2], "num_swapped")
    return (
        f"Width buys nothing on this stream: plain tables stand {dims} to dim 16. So a narrow row for every fid, or for most, beats a wide "
        f"one for some. Against whole rows of the same dim, kept by lfu, pools stand {rows}: choosing by magnitude and gradient is no "
        f"better than counting, where it is not worse. To static atoms they stand {chosen}; those vary much from seed to seed and "
        "are a weak control: a draw can take atoms of the few fids of a small feature, which every impression needs. "
        f"The pool of {POOLS[2].label} moves {swapped:,.0f} atoms in a pass.\n\n"
        "What this cannot say: how a pool does where wide rows are worth their bytes, on streams of many more impressions for each fid. "
        "All dims learn at one rate, the best of those tried for dim 16."
    )


def _speed(speed: Mapping[int, Speed], num_rows: int) -> str:
    lines = ["| dim | look-up, ns a fid | look-up and step, ns a fid |", "| --- | --- | --- |"]
    lines += [f"| {dim} | {one.lookup_ns:.1f} | {one.step_ns:.1f} |" for dim, one in speed.items()]
    saved = "; ".join(
        f"{1 - speed[small].lookup_ns / speed[dim].lookup_ns:.0%} of a look-up and {1 - speed[small].step_ns / speed[dim].step_ns:.0%} "
        f"of look-up and step at dim {dim} with {small / dim:.0%} live"
        for dim in (32, 16)
        for small in (dim // 2, dim // 4)
    )
    return (
        f"The project's bags, {num_rows:,} rows, fids drawn uniformly, processor time on one thread, medians of interleaved "
        "rounds. The machine may be shared: where narrower rows take longer, that is noise, and shows how much of it there is.\n\n"
        + "\n".join(lines)
        + f"\n\nThe most that a pool could save is what narrower rows save: {saved}. It would have to repack its rows for that, which is "
        "not counted, and read mask or pointers first. Left where they are, dead atoms save nothing at dim 16: weights are one line of 64 "
        "bytes of their own and accumulators another, which are fetched whole for one atom or for two. At dim 32 they save the lines of "
        "which both atoms are dead."
    )


def _draw(results: Results, path: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    groups = {"plain": tuple(PLAIN.values()), "fewer rows": FEWER, "static atoms": STATIC, "pool": POOLS, "pool, as else tried": TRIED}
    for (name, variants), marker in zip(groups.items(), "os^D*", strict=True):
        megabytes = [_mean(results, variant, "used_bytes") / 1e6 for variant in variants]
        axes.plot(megabytes, [_auc(results, variant) for variant in variants], marker, label=name)
        for variant, across in zip(variants, megabytes, strict=True):
            axes.annotate(variant.label.split(",")[0], (across, _auc(results, variant)), fontsize=6)
    axes.set(xscale="log", xlabel="MB", ylabel="warm AUC")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _gap(results: Results, variant: PoolVariant, reference: PoolVariant) -> Difference:
    return paired(results[variant.name], results[reference.name])


def _mean(results: Results, variant: PoolVariant, field: str) -> float:
    return float(np.mean([getattr(outcome, field) for outcome in results[variant.name]]))


def _auc(results: Results, variant: PoolVariant) -> float:
    return float(np.mean([outcome.aucs[0] for outcome in results[variant.name]]))


def _mb(results: Results, variant: PoolVariant) -> str:
    return f"{_mean(results, variant, 'used_bytes') / 1e6:.2f}"
