"""Answers as the official VQA evaluation compares them (GT-Vision-Lab/VQA, vqaEval.py at a013f00):
punctuation, number words, articles and contractions, quirks included. What is odd there is odd
here: a mark is deleted where any of its kind stands beside a space and becomes a space elsewhere,
at most 32 full stops go, and contractions with a capital letter are never met."""

import re

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_IN_THOUSANDS = re.compile(r"\d,\d")
# The official pattern has a lookahead that can never fail where it should look behind.
FULL_STOP = re.compile(r"\.(?!\d)")
MOST_FULL_STOPS = 32  # The official code hands the value of re.UNICODE over as the count.
ARTICLES = frozenset(["a", "an", "the"])
NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
WHOLE = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd
    you'd've you'll you're you've
"""
# A form that lacks one of its apostrophes is made whole; one official entry goes the other way.
CONTRACTIONS = {
    whole[:place] + whole[place + 1 :]: whole
    for whole in WHOLE.split()
    for place, character in enumerate(whole)
    if character == "'"
} | {"somebody'd": "somebodyd"}


def normalised(answer: str) -> str:
    """Both rules after one another: `"The two  dogs, maybe." -> "2 dogs maybe"`."""
    return without_articles(without_punctuation(answer))


def without_punctuation(answer: str) -> str:
    """The official `processPunctuation`; spacing and case stay."""
    is_number = NUMBER_IN_THOUSANDS.search(answer) is not None
    text = answer
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or is_number else " ")
    return FULL_STOP.sub("", text, count=MOST_FULL_STOPS)


def without_articles(answer: str) -> str:
    """The official `processDigitArticle`: lower case, digits, no articles, whole contractions."""
    words = [NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def in_one_line(answer: str) -> str:
    """What is done to every answer, right or wrong, before anything else."""
    return answer.replace("\n", " ").replace("\t", " ").strip()
