"""Keys of callers that are made while the gateway runs, beside those that its environment names."""
