"""How far log shippers have read, one file for each program."""
