"""Run stages as units of work on Beam: the only folder that imports apache_beam."""
