"""Start of the services and processes, replay of the stream through them."""
