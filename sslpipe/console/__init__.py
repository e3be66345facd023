"""What the user sees: errors, progress, the nearest spelling. Nothing here can change a result."""
