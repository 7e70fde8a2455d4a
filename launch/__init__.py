"""How a run is started: accelerate's configuration files, a SLURM script and the set-up program."""
