"""Scripts that trained the zoo's weights; they alone need PyTorch (the `train` extra)."""
