"""Generated worlds that the trained models see and hear: for training, measuring and demonstrating."""
