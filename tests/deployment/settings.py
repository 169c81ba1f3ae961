"""What the files of a deployment may set: every CAROUSEL_ variable is a setting of the server."""

from collections.abc import Iterable

from service.settings import PREFIX, Settings

VARIABLES = {PREFIX + name.upper() for name in Settings.model_fields}


def unknown(names: Iterable[str]) -> set[str]:
    """Return the variables with our prefix that would stop the start."""
    return {name for name in names if name.startswith(PREFIX)} - VARIABLES


def read(**given: str) -> Settings:
    """Return the settings of a deployment's environment, each checked as at a start."""
    fields = {name.removeprefix(PREFIX).lower(): value for name, value in given.items()}
    return Settings(**fields)
