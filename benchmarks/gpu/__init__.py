"""What a GPU is to show: proofs that it computes what the CPU does, and how fast. `make gpu-proof`.

`python -m benchmarks.gpu` starts each part as a process of its own (`part`), so that none takes the
others with it, and writes down each record as it comes.
"""
