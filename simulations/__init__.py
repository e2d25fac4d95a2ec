"""Whether the statistics keep what they promise, on data whose truth is known."""
