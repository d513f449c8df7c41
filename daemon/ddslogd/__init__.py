"""Brings the error logs of Huawei Cloud DDS instances to local disk."""

__version__ = "0.1.0"
