"""`python -m encoder_service`. Processes that decode media import this file too: it must import nothing for them."""

if __name__ == "__main__":
    from encoder_service.startup import main
    from fovea.rpc.lifecycle import run_process

    run_process(main)
