"""Post-training quantisation: from a float model and calibration data to an ONNX model with Q and DQ nodes.

`dataset` reads the data, `observe` runs the model on them, `calibrators` find ranges, `structure` decides what is
computed in 8 bits, and `qdq` writes the quantised model. `recipes` tries what improves it, and `choose` gives layers
back to floating point until the bound that the user asked for holds on data held back. `calibrate` connects them.
"""
