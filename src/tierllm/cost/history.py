"""How long answers are and how fast they come, learnt from those before."""
