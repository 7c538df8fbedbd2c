"""Texts as the published experiment reads them."""

from benchmarks.newsgroups_recipes import whole_post, without_stop_words

POST = {
    "subject": "Re: The Moon's 3 craters",
    "raw": "From: a@b.c\nSubject: Re: The Moon's 3 craters\n\n> You wrote\n\nI saw it, in 1993!\n",
    "text": "I saw it, in 1993!",
}


def test_headers_go_and_quotes_stay() -> None:
    assert whole_post(POST) == "Re: The Moon's 3 craters > You wrote\n\nI saw it, in 1993!\n"


def test_only_long_words_that_say_something_stay() -> None:
    assert without_stop_words(whole_post(POST)) == "moon craters wrote saw"
    assert without_stop_words("The cat's 2nd NASA-rocket; of") == "cat nasa rocket"
