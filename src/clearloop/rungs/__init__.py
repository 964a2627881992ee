"""The parts of a training loop as one writes them by hand, and the loops that they make."""
