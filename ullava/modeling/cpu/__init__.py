"""Forms of networks that are faster on a CPU in float32: same weights, same results up to rounding."""
