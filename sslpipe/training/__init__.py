"""Training: one loop, optimisers, schedules, checkpoints."""
