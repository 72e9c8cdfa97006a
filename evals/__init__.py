"""What the gateway's policies keep and cost, measured."""
