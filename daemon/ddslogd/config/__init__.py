"""The configuration: models, rules, and where in the file a value stands."""
