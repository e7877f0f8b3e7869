"""`python -m encoder_service --model ...`."""

from encoder_service.startup import main
from fovea.rpc.lifecycle import run_process

if __name__ == "__main__":
    run_process(main)
