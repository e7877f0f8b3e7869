"""Code with torch that the two GPU services share: weights, configs, devices, dtypes and numerics.

The gateway must not import this package; a contract of import-linter checks that.
"""
