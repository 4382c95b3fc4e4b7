"""Replay of a time range of the log through the joiner's own rules, as a bounded Apache Beam pipeline."""
