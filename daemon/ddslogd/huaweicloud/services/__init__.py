"""Log services of the cloud: one file each."""
