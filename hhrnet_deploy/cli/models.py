"""``hhrnet models``: placeholder until the model room lands."""


def models() -> None:
    """List the presets."""
