"""Tables of the shadow arm and of the rollback."""

from __future__ import annotations

from monolith_demo.report.arms import ArmFindings
from monolith_demo.report.tables import ReportTable
from monolith_streaming.compare.document import answer_of

_ARMS_NOTE = (
    "`monolith compare`: scores at request time against final labels of the joiner. frozen (shadow): `monolith shadow` with the model of "
    "the end of history; it scored what the live replica had served, and answered nobody."
)
_ROLLBACK_NOTE = "`monolith rollback` under a replica that runs. The time includes the start of the trainer."


def arm_tables(found: ArmFindings) -> list[ReportTable]:
    """Return the tables of the arms, of their differences and of the rollback."""
    one = found.rollback
    rolled = [
        ("checkpoint made the newest", one.checkpoint),
        ("examples taken back", f"{one.examples_taken_back:,}"),
        ("version served before", one.version_before),
        ("version served after", one.version_after),
        ("start of the trainer to an answer of the new generation", f"{one.took_s:.1f} s"),
        ("examples learnt once the trainer had gone on to the end", f"{one.examples_after:,}"),
    ]
    arms = [
        (f"{of.task}, {of.arm}", f"{of.num_requests:,}", *(f"{value.value:.4f}" for value in (of.auc, of.ne, of.calibration)))
        for of in found.figures
    ]
    differences = [
        (f"{of.task}, {of.arm} - {of.base}, {name}", f"{value.value:+.4f}", f"{value.low:+.4f} to {value.high:+.4f}")
        for of in found.differences
        for name, value in (("AUC", of.auc), ("NE", of.ne), ("calibration", of.calibration))
    ]
    return [
        ReportTable("Live model and shadow", ("", "requests", "AUC", "NE", "calibration"), arms, _ARMS_NOTE),
        ReportTable(
            "Differences on the same requests", ("", "difference", "95 % interval over users"), differences, answer_of(found.differences)
        ),
        ReportTable("Rollback", ("", "value"), rolled, _ROLLBACK_NOTE),
    ]
