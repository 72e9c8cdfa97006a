"""What tokens and seconds cost. Pure: knows no other package; reads package data and vocabularies, nothing else."""
