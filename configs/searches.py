"""What the searches of configs/tune.py found: presets of a dataset.

Each is the best of 20 trials on validation; all trials, with their commands,
are in configs/trials/. Not a job by itself.
"""

# Dataset -> row of the table -> what it overrides.
FOUND: dict[str, dict[str, dict]] = {}
