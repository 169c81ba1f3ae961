from service.training.demo_corpus import ALPHABET, topics_text


def test_a_topic_that_repeats_part_of_a_longer_one_is_left_out():
    topics = {
        "compound": "Beginning.\n\nThe if.\n\nThe else.",
        "if": "The if.\n\nThe\nelse.",
        "x": "X.",
    }
    text = topics_text(0, topics)
    assert text.count("The if.") == 1
    assert "X." in text


def test_typographic_signs_are_written_in_ascii_and_what_is_left_of_others_goes():
    text = "“It’s” – fine… 20° ß"  # noqa: RUF001 (the point of it)
    assert topics_text(0, {"a": text}) == '"It\'s" - fine... 20 \n'


def test_cpythons_topics_need_no_character_outside_the_alphabet():
    text = topics_text(3)
    assert set(text) <= set(ALPHABET)
    assert len(text) > 300_000
    assert text == topics_text(3)
    assert text != topics_text(4)
