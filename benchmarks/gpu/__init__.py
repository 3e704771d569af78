"""Proof on a GPU, whenever one can be had: prepared on any machine, carried there as a folder, run in minutes.

`python -m edgec.benchmarks.gpu prepare FOLDER` compiles networks, computes their inputs and reference outputs on the
processor, and adds the wheels that a bare machine needs. On the GPU's machine, `FOLDER/run.sh` installs them and calls
`python -m edgec.benchmarks.gpu run FOLDER`, which writes `results.json`; `page` makes a page of it.
"""
