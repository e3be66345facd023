"""What everything stands on: settings, files that outlive a process, devices, ranks, checkpoints."""
