"""Parameters → pixels: the reference renderer, which defines what is right, and two fast ones."""
