"""Fetch, patch, configure, build, boot and test kernels with the skbhome series."""
