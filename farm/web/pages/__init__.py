"""The pages of the site: rendered here, moved by small scripts of the site's own, and asking nobody else."""
