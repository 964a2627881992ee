"""K models trained in one program: stacked weights, updates of all at once, and a verdict that knows noise."""
