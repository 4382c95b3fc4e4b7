"""The replay: joins a time range of the log again by the joiner's rules, as a bounded Apache Beam pipeline."""
