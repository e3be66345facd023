"""Numbers of features, as pure functions: k-NN, linear probe, effective rank, geometry."""
