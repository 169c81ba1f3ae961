"""The one table from conditions to statuses."""

from service import errors
from service.api.errors import STATUSES


def test_every_condition_has_a_status():
    def below(error: type[errors.CarouselError]) -> set[type[errors.CarouselError]]:
        return {error}.union(*map(below, error.__subclasses__()))

    assert set(STATUSES) == below(errors.CarouselError) - {errors.CarouselError}
