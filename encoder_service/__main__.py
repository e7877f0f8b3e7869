"""`python -m encoder_service`. Worker processes import this file too, so it imports nothing at its top level."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. torch is imported once the settings are known to be right."""
    from fovea.processes.extras import needs_extra

    with needs_extra("encoder", "python -m encoder_service"):
        from encoder_service.settings import EncoderSettings
        from fovea.processes.imports import large_imports
        from fovea.service import read_settings, run

        settings = read_settings(EncoderSettings, "encoder", argv)
        with large_imports():  # seconds, for which neither --help nor a wrong setting waits
            from encoder_service.server.servicer import EncoderServicer
            from encoder_service.startup import fork_workers, load
    fork_workers()  # nothing has started a thread yet
    return run(settings, EncoderServicer, load)


if __name__ == "__main__":
    from fovea.rpc.lifecycle import run_process

    run_process(main)
