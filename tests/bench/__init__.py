"""What is measured; each is a script too."""
