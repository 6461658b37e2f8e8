"""PySide6 made to behave like PythonQt."""


def install() -> None:
    """Patch the classes of PySide6 in place."""
