"""Guard: judges each publication of the trainer before replicas apply it, and holds those that make the model worse."""
