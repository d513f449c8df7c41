"""What takes the daemon apart: kills, damaged ledgers, power cuts."""
