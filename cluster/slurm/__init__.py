"""A script for sbatch."""
