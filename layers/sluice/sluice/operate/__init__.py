"""Does the operator's work: one door, and behind it a command for each thing that operators ask for."""
