"""What evaluations share."""
