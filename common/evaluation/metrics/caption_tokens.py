"""Captions as the official caption metrics see them: tokens of the Penn Treebank, lower-cased, most
punctuation removed. The rules are those of the PTBTokenizer of Stanford CoreNLP 3.4.1 as
pycocoevalcap 1.2 calls it (`-preserveLines -lowerCase`), written anew in Python: at each place the
rule that reads furthest wins, what it looks ahead at included, and of several the first. Not
promised are scripts whose letters Python and Java class differently, and the full stop of a last
letter or abbreviation ("plan b."), for which the official program looks into the next caption."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from common.evaluation.metrics.caption_patterns import (
    ACRONYM,
    AFTER_INITIAL,
    ALPHA,
    APOS,
    APOSTROPHE_WORD,
    ASIAN_SMILEY,
    BEFORE_LOWER_CASE,
    BEFORE_NAMES,
    FILE_NAME,
    FULL_ADDRESS,
    HYPHENATED,
    LETTER,
    LIKELY_ADDRESS,
    MAIL,
    NOT,
    NUMERAL,
    PAUSE,
    PHONE,
    QUOTE_PAIR,
    SLASHED,
    SMILEY,
    SPACE,
    SPACE_OR_END,
    SUFFIX,
    SYMBOL,
    TAG,
    THING,
    WITH_AMPERSAND,
    WORD,
)

# Brackets are escaped and lower-cased before the official removal, so it never meets them.
REMOVED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def tokenised(caption: str) -> str:
    """The tokens with single spaces between them: `"A man's dog." -> "a man 's dog"`.

    A token may hold a no-break space, as in the fraction `1 1/2`.
    """
    line = LINE_BREAKS.sub(" ", caption) + "\n"  # Rules look ahead at the end of the line.
    tokens = []
    place = 0
    while place < len(line) - 1:
        token, place = _next_token(line, place)
        if token and token not in REMOVED:
            tokens.append(token)
    return " ".join(tokens)


@dataclass(frozen=True)
class Rule:
    """A pattern whose first group is the token; the rest of it is only looked at."""

    pattern: re.Pattern[str]
    written: Callable[[str], str]  # the token as it is written


def _next_token(line: str, place: int) -> tuple[str, int]:
    """The token at a place, empty where nothing counts, and where the next may begin."""
    if plain := PLAIN_WORD.match(line, place):
        return plain[1].lower(), plain.end()
    furthest, token, after = place, "", place + 1
    for rule in RULES:
        match = rule.pattern.match(line, place)
        if match is not None and match.end() > furthest:
            furthest, after = match.end(), match.end(1)
            token = rule.written(match[1]).lower()
    return token, after


def _same(token: str) -> str:
    return token


def _nothing(token: str) -> str:
    del token
    return ""


def _one_word(token: str) -> str:
    """Spaces inside a token do not part it."""
    return _escaped(token.replace(" ", "\u00a0"))


def _escaped(token: str) -> str:
    for bracket, name in BRACKETS.items():
        token = token.replace(bracket, f"-{name}-")
    return token


def _without_soft_hyphens(token: str) -> str:
    return token.replace("\u00ad", "") or "-"


def _quotes(token: str) -> str:
    """All quotes that are no letters of a word as the Treebank writes them."""
    return token.replace("&apos;", "'").translate(QUOTE_MARKS)


def _dashes(token: str) -> str:
    return "--" if len(token) in (3, 4) else token


def _currency(token: str) -> str:
    return CURRENCIES.get(token, token)


def _fraction(token: str) -> str:
    return FRACTIONS.get(token, token)


def _ampersand(token: str) -> str:
    return re.sub("(?i:&amp;)", "&", token)


# Between spaces no rule reads further than a word's own: most of a caption needs no others.
PLAIN_WORD = re.compile(" *(?!(?i:cannot|gonna|gotta|lemme|gimme|wanna) )([A-Za-z]+)(?= )")
LINE_BREAKS = re.compile("[\n\r\u2028\u2029\u000b\u000c\u0085]")
BRACKETS = {"(": "LRB", ")": "RRB", "{": "LCB", "}": "RCB", "[": "LSB", "]": "RSB"}
QUOTE_MARKS = str.maketrans(
    {
        **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
        **dict.fromkeys("\u0092\u2019\u203a", "'"),
        **dict.fromkeys("\u0093\u201c\u00ab", "``"),
        **dict.fromkeys("\u0094\u201d\u00bb", "''"),
    }
)
CURRENCIES = {"\u00a2": "cents", "\u00a3": "#", **dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$")}
FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}


def _rule(token: str, then: str = "", *, written: Callable[[str], str] = _same) -> Rule:
    return Rule(re.compile(f"({token})(?:{then})"), written)


RULES = (
    _rule(
        "(?i:can(?=not)|'t(?=was)|'t(?=is)|gon(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|wan(?=na))",
        "(?i:not|was|is|na|ta|me)",
    ),
    _rule(r"(?i:c)\+\+|(?i:[cf])#"),
    _rule(TAG, written=lambda token: token.replace(" ", "\u00a0")),
    _rule("(?i:&(?:MD|mdash|ndash);)|[\u0096\u0097\u2013-\u2015]", written=lambda _: "--"),
    _rule("(?i:&amp;)", written=_ampersand),
    _rule("(?i:&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);)"),
    _rule(WORD, SUFFIX, written=_without_soft_hyphens),
    _rule("[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", NOT, written=_without_soft_hyphens),
    _rule(WORD, written=_without_soft_hyphens),
    _rule(APOSTROPHE_WORD),
    _rule(f"(?i:y){APOS}", ALPHA),
    _rule(FULL_ADDRESS),
    _rule(LIKELY_ADDRESS),
    _rule(MAIL),
    _rule(rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{LETTER}+"),
    _rule(SUFFIX, "[^A-Za-z]", written=_quotes),
    _rule(NOT, "[^A-Za-z]", written=_quotes),
    _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    _rule(f"[-+]?{NUMERAL}", written=_without_soft_hyphens),
    _rule(
        "[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"
    ),
    _rule(r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}", written=_one_word),
    _rule("[¼½¾\u2153-\u215e]", written=_fraction),
    _rule(f"(?i:-(?:RRB|LRB|RCB|LCB|RSB|LSB)-|C\\.D\\.s|pro-|anti-|Cap{APOS}n|c{APOS}est)"),
    _rule(SLASHED),
    _rule(r"[A-Z]*\$|#"),
    _rule(
        "[\u00a2-\u00a5\u0080\u20a0\u20aa\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6]",
        written=_currency,
    ),
    _rule("[A-Za-z]", rf"\.{SPACE}+(?:{AFTER_INITIAL}|{TAG})(?:{SPACE_OR_END}|[?!])"),
    _rule(r"(?i:ca|figs?|prop|nos?|art|pp|op)\.", rf"{SPACE_OR_END}?\d"),
    _rule(r"(?i:So|No)\.", f"{SPACE}+(?i:Africa|Korea|Cal)"),
    _rule(rf"{BEFORE_LOWER_CASE}\.", "[^\n][^\n]|"),
    _rule(rf"(?:{BEFORE_NAMES}|{ACRONYM}|[A-Za-z])\."),
    _rule(f"{BEFORE_NAMES}|{ACRONYM}", SPACE_OR_END),
    _rule(f"{APOS}[0-9][0-9]", SPACE_OR_END),
    _rule(FILE_NAME, f"(?:{SPACE}|[.?!,\"'<])"),
    _rule(rf"{WORD}\.", PAUSE, written=_without_soft_hyphens),
    _rule(PHONE, written=_one_word),
    _rule('"|(?i:&quot;)', written=lambda _: "''"),
    _rule("(?i:<|&lt;)", written=lambda _: "<"),
    _rule("(?i:>|&gt;)", written=lambda _: ">"),
    _rule(SMILEY, "[^A-Za-z0-9]", written=_escaped),
    _rule(ASIAN_SMILEY, written=_escaped),
    _rule(r"[\[\](){}]", written=_escaped),
    _rule("-+", written=_dashes),
    _rule(r"\.{3,5}|[\u0085\u2026]|\.[ \u00a0](?:\.[ \u00a0])+\.", written=lambda _: "..."),
    _rule("@+|#+|_+"),
    _rule(r"\*+|(?:\\\*){1,3}"),
    _rule(PAUSE),
    _rule("[?!]+"),
    _rule("[.¡¿\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"),
    _rule("=+"),
    _rule("/"),
    _rule(HYPHENATED, written=_without_soft_hyphens),
    _rule(rf"{HYPHENATED}\.", PAUSE, written=_without_soft_hyphens),
    _rule(THING),
    _rule(rf"{THING}\.", PAUSE),
    _rule(rf"{WITH_AMPERSAND}\.", PAUSE, written=_ampersand),
    _rule(WITH_AMPERSAND, written=_ampersand),
    _rule("'", f"{ALPHA}[^ \t\u00a0\n]", written=_quotes),
    _rule(f"''|{QUOTE_PAIR}|{APOS}", written=_quotes),
    _rule(f"{SUFFIX}|{NOT}", written=_quotes),
    _rule("<<|>>"),
    _rule(SYMBOL),
    _rule(f"{SPACE}+|(?i:&nbsp;)", written=_nothing),
)
