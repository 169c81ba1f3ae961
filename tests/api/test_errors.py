"""The one table from conditions to statuses."""

from service import errors
from service.api.errors import STATUSES


def test_every_condition_has_a_status():
    def below(error: type[errors.CarouselError]) -> set[type[errors.CarouselError]]:
        return {error}.union(*map(below, error.__subclasses__()))

    found = {each for each in below(errors.CarouselError) if "service.cli" not in each.__module__}
    assert set(STATUSES) == found - {errors.CarouselError}
