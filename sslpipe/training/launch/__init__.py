"""Who starts the processes that train: this one, torchrun's agent, or Slurm."""
