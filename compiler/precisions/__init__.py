"""Which arithmetic each layer uses: measured in error and in time.

`bfloat16` finds the layers that can multiply in bfloat16 within the error budget. `variants` compiles the same model in
several precisions and measures them, `choice` takes the best of them, and `evidence` describes what was found.
"""
