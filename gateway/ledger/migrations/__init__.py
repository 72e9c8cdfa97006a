"""The steps that bring a database to the ledger's present shape; see `gateway.ledger.migrate`."""
