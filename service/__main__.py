"""The program `token-broker`, also as `python -m service`."""

import gc


def main() -> None:
    """Entry point: exit code 0, 1 failed, 2 usage or settings."""
    # What is imported lives as long as the process: to look through it for garbage takes a tenth of a start, in vain.
    gc.disable()
    from service.cli import app  # noqa: PLC0415 - after the line before

    gc.freeze()
    gc.enable()
    app()


if __name__ == "__main__":
    main()
