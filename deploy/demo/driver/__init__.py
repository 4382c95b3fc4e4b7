"""Services, processes and phases of a run; replay of the stream through them."""
