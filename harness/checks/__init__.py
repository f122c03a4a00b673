"""Checks of a series of patches: one module per check, :mod:`registry` lists them as data.

A check of a patch is a function from a :class:`~harness.checks.context.Place` to a
:class:`~harness.checks.model.Result`; a check of the series takes the
:class:`~harness.checks.context.Context`. To add one: write the module, add a line to the
registry.
"""
