"""veriscope beside the libraries of its field, as ratios inside one run; nothing here is a test of correctness."""
