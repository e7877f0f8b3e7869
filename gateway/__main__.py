"""`python -m gateway`. Worker processes import this module too, so it imports nothing at its top level."""

if __name__ == "__main__":
    import sys

    from gateway.startup import main

    sys.exit(main(sys.argv[1:]))
