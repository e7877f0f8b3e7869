"""`python -m encoder_service`. Worker processes import this file too, so it imports nothing at its top level."""

if __name__ == "__main__":
    from encoder_service.command_line import main
    from fovea.rpc.lifecycle import run_process

    run_process(main)
