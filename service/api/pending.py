"""What decoding cannot do yet: taken where it means nothing, else refused by name."""

from service.errors import Validation

_NOTHING: tuple[object, ...] = (None, False, 0, [])


def check_served(**given: object) -> None:
    """See whether all that is asked for is served. Raises Validation."""
    for field, value in given.items():
        if value not in _NOTHING:
            raise Validation(f"`{field}` is not supported yet", field)
