"""The ways out: each module delivers one Upload to one kind of target, and knows nothing else."""
