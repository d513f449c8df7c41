"""All that knows Huawei Cloud."""
