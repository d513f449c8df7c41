"""The whole daemon against a model of a cloud, from outside: nothing here imports ddslogd."""
