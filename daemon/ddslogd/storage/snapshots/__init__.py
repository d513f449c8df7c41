"""Files as the cloud had them, whole and final."""
