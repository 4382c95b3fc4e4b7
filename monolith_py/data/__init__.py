"""Data that flows between the processes: ids, schema, columns, events, examples, counters. No torch."""
