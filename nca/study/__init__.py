"""A study of training runs: from a command line to trials that the sweep engine runs."""
