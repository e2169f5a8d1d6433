"""How well texts match search terms: a score in (0, 1], or 0 for a text that does not match.

Scores and what is accepted are those of Prometheus 3.14's search API, to the last bit, since
clients compare them with thresholds and sort by them. Libraries for Jaro-Winkler differ there:
they halve transpositions to whole numbers, or give the bonus for a common beginning only above 0.7.

Everything here is pure and counts code points, not bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Check = Callable[[], None]
Score = Callable[[str], float]

ALGORITHMS = ("subsequence", "jarowinkler")

_NOT_EQUAL = 0.999
"""What keeps a subsequence below 1, however well it matches."""

_PREFIX_MAX = 4
_PREFIX_BONUS = 0.1
_STARTS_BETWEEN_CHECKS = 64


def make_score(
    terms: Sequence[str],
    algorithm: str,
    threshold: float,
    *,
    case_sensitive: bool,
    check: Check,
) -> Score | None:
    """The best score of a text among several terms; None when there is no term but empty ones.

    Parameters
    ----------
    terms
        A text has to match one of them; empty ones are skipped.
    algorithm
        One of `ALGORITHMS`: ``subsequence`` takes texts that have the characters of a term in their
        order, ``jarowinkler`` those that contain a term or, with a threshold, resemble it.
    threshold
        Least score (0 to 1) that is accepted; what contains a term passes ``jarowinkler`` anyway.
    case_sensitive
        Else both sides are compared in lower case.
    check
        Called now and then in a long comparison; raises to give it up.

    """
    fold = str if case_sensitive else lower
    scores = [_score_of(fold(term), algorithm, threshold, check) for term in terms if term]
    if not scores:
        return None

    def score(text: str) -> float:
        text = fold(text)
        best = 0.0
        for one in scores:
            best = max(best, one(text))
            if best >= 1.0:
                break
        return best

    return score


def lower(text: str) -> str:
    """Lower case character by character: a text keeps its length."""
    if text.isascii():
        return text.lower()
    return "".join(map(str.lower, text.replace("\u0130", "i")))


def _score_of(term: str, algorithm: str, threshold: float, check: Check) -> Score:
    def by_subsequence(text: str) -> float:
        if text.startswith(term):
            return 1.0
        score = subsequence_score(term, text, check)
        return score if score >= threshold else 0.0

    def by_jaro_winkler(text: str) -> float:
        score = substring_score(term, text)
        if score > 0.0 or threshold <= 0.0:
            return score
        score = jaro_winkler_score(term, text)
        return score if score >= threshold else 0.0

    return by_subsequence if algorithm == "subsequence" else by_jaro_winkler


def substring_score(term: str, text: str) -> float:
    """1 when `text` begins with `term`, down to 0.1 when it ends with it, 0 without it."""
    at = text.find(term)
    if at <= 0:
        return 1.0 if at == 0 else 0.0
    return 1.0 - 0.9 * at / (len(text) - len(term))


def subsequence_score(term: str, text: str, check: Check) -> float:
    """How closely the characters of `term` stand together and near the start of `text`.

    From every place of the first character the others are taken greedily. Each run of k neighbours
    counts k², each character left out before or between runs takes 1 / length away, each one behind
    them half of it; the best place counts, as a share of what the term alone would have.
    """
    if term == text:
        return 1.0
    best = -1.0
    last_start = len(text) - len(term)
    start = text.find(term[0])
    n_starts = 0
    while 0 <= start <= last_start:
        raw = _raw_score(term, text, start)
        if raw is None:  # Then the rest is not behind any later place either.
            break
        best = max(best, raw)
        start = text.find(term[0], start + 1)
        n_starts += 1
        if n_starts % _STARTS_BETWEEN_CHECKS == 0:
            check()
    if best < 0.0:
        return 0.0
    return best / (len(term) * len(term)) * _NOT_EQUAL


def _raw_score(term: str, text: str, start: int) -> float | None:
    per_character = 1.0 / len(text)
    score = 0.0
    at = start
    n_taken = run_end = 0
    while n_taken < len(term):
        at = text.find(term[n_taken], at)
        if at < 0:
            return None
        score -= (at - run_end) * per_character
        run_start = at
        while n_taken < len(term) and at < len(text) and text[at] == term[n_taken]:
            n_taken += 1
            at += 1
        score += (at - run_start) * (at - run_start)
        run_end = at
    return score - (len(text) - run_end) * per_character * 0.5


def jaro_winkler_score(term: str, text: str) -> float:
    """Jaro's similarity plus a bonus for up to four common first characters."""
    if term == text:
        return 1.0
    short, long = (text, term) if len(term) > len(text) else (term, text)
    reach = max(len(long) // 2 - 1, 0)
    places: list[int] = []
    taken: list[str] = []
    free_from: dict[str, int] = {}  # Equal characters are taken from left to right.
    for at, character in enumerate(short):
        first = max(at - reach, free_from.get(character, 0))
        place = long.find(character, first, at + reach + 1)
        if place >= 0:
            free_from[character] = place + 1
            places.append(place)
            taken.append(character)
    if not places:
        return 0.0
    places.sort()
    n_matches = len(places)
    n_moved = sum(long[place] != mine for place, mine in zip(places, taken, strict=True))
    jaro = (
        n_matches * (1.0 / len(short))
        + n_matches * (1.0 / len(long))
        + (n_matches - n_moved * 0.5) / n_matches
    ) / 3.0
    n_prefix = 0
    while n_prefix < min(_PREFIX_MAX, len(short)) and short[n_prefix] == long[n_prefix]:
        n_prefix += 1
    return jaro + n_prefix * _PREFIX_BONUS * (1.0 - jaro)
