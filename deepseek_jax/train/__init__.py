"""Training: state, optimiser, losses, the pure steps, the loop and its checkpoints."""
