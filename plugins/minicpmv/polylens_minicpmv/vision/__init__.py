"""From pixels to visual tokens: the two towers, their positions, and the resampler."""
