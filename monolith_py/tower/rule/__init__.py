"""Drop-and-grow rule of sparse towers: densities, scores, schedules, swaps, drift test."""
