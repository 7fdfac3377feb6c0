"""Models: loading, the padding-free forward pass, attention over segments, fused kernels."""
