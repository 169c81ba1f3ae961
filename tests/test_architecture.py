"""The architecture page lists the modules that there are, by their own docstrings."""

from tools.packages import PAGE, package_list, page_with


def test_the_page_lists_every_module():
    assert PAGE.read_text() == page_with(package_list()), "run `make docs`"
