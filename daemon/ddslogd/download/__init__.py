"""One link becomes one partial file, whatever happens on the way."""
