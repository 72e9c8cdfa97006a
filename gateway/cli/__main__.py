"""`python -m gateway.cli` is `gkt`."""

from gateway.cli import app

if __name__ == "__main__":
    app(prog_name="gkt")
