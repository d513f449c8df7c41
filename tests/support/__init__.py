"""What tests in more than one file stand on."""
