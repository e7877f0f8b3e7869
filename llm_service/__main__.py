"""`python -m llm_service`. Processes of vLLM import this file too, so it imports nothing at its top level."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. torch is imported once the settings are known to be right."""
    from fovea.processes.extras import needs_extra

    with needs_extra("llm", "python -m llm_service"):
        from fovea.processes.imports import large_imports
        from fovea.service import read_settings, run
        from llm_service.settings import LLMSettings

        settings = read_settings(LLMSettings, "llm", argv)
        with large_imports():  # seconds, for which neither --help nor a wrong setting waits
            from llm_service.server.servicer import LLMServicer
            from llm_service.startup import load
    return run(settings, LLMServicer, load)


if __name__ == "__main__":
    from fovea.rpc.lifecycle import run_process

    run_process(main)
