"""Synthetic data for the trained models: pictures and sounds to train, evaluate and demonstrate with."""
