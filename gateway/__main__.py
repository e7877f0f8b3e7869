"""`python -m gateway`. Worker processes import this module too, so it imports nothing at its top level."""

if __name__ == "__main__":
    import sys

    from fovea.processes.extras import needs_extra

    with needs_extra("gateway", "python -m gateway"):
        from gateway.startup import main

    sys.exit(main(sys.argv[1:]))
