"""The demo: a real stream through the real processes, and a report of what online learning was worth."""
