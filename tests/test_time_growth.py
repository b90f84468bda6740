from tests.time_growth import grows_linearly


def quadratic(text: str) -> int:
    return sum(text.count(letter, start) for start, letter in enumerate(text))


def test_distinguishes_quadratic_from_linear_time() -> None:
    assert grows_linearly(lambda text: [ord(letter) for letter in text], "a" * 5_000, "a" * 40_000)
    assert not grows_linearly(quadratic, "a" * 8_000, "a" * 64_000, rounds=1)
