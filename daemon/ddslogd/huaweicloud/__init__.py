"""All that knows the vendor's APIs."""
