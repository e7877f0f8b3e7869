"""`python -m gateway`. Processes that draw explanations import this file too: it must import nothing for them."""

if __name__ == "__main__":
    import sys

    from gateway.startup import main

    sys.exit(main(sys.argv[1:]))
