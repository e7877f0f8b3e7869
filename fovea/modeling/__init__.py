"""What the two GPU services share of torch: weights by name, configs, devices and dtypes, exact selections.

The gateway must not import this package; a contract of import-linter sees to it.
"""
