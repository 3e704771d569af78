"""Other runtimes as they run on a processor that has no AVX-512 and no VNNI, natively, on one that has them."""
