"""Search for hyper-parameters: the space, its trials, who proposes them, and how they are run."""
