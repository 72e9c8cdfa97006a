"""Numbers that the docs quote; `README.md` here says what each one measures and how to run it."""
