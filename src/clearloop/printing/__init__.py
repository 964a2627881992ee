"""Programs as text: from descriptions of the parts of a run to the source of one file."""
