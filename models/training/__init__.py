"""The scripts that trained the zoo's weights; only they need PyTorch (the `train` extra)."""
