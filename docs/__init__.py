"""The documentation, and the scripts that write those parts of it which come from the code."""
