"""What the kernels' tests share: difference measures and compilation without a device."""
