"""Slow twins of server/api/fuzzy.py, in exact fractions and written from the definitions."""

from fractions import Fraction


def substring_score(term, text):
    places = [at for at in range(len(text) + 1) if text[at : at + len(term)] == term]
    if not places:
        return Fraction(0)
    if places[0] == 0:
        return Fraction(1)
    return 1 - Fraction(9, 10) * Fraction(places[0], len(text) - len(term))


def subsequence_score(term, text):
    if term == text:
        return Fraction(1)
    raws = []
    for start in range(len(text)):
        if text[start] != term[0]:
            continue
        places = []
        for at in range(start, len(text)):
            if len(places) < len(term) and text[at] == term[len(places)]:
                places.append(at)
        if len(places) < len(term):
            continue
        runs = []
        for place in places:
            if runs and place == runs[-1][-1] + 1:
                runs[-1].append(place)
            else:
                runs.append([place])
        missed = places[-1] + 1 - len(places)
        behind = len(text) - 1 - places[-1]
        gaps = Fraction(missed, len(text)) + Fraction(behind, 2 * len(text))
        raws.append(sum(len(run) ** 2 for run in runs) - gaps)
    if not raws or max(raws) < 0:
        return Fraction(0)
    return max(raws) / len(term) ** 2 * Fraction(999, 1000)


def jaro_winkler_score(term, text):
    if term == text:
        return Fraction(1)
    one, two = sorted((term, text), key=len)
    reach = max(len(two) // 2 - 1, 0)
    partner = {}
    for i in range(len(one)):
        for j in range(len(two)):
            if abs(i - j) <= reach and one[i] == two[j] and j not in partner.values():
                partner[i] = j
                break
    if not partner:
        return Fraction(0)
    m = len(partner)
    ones = [one[i] for i in sorted(partner)]
    twos = [two[j] for j in sorted(partner.values())]
    moved = Fraction(sum(a != b for a, b in zip(ones, twos, strict=True)), 2)
    jaro = (Fraction(m, len(one)) + Fraction(m, len(two)) + (m - moved) / m) / 3
    prefix = 0
    for a, b in list(zip(one, two, strict=False))[:4]:
        if a != b:
            break
        prefix += 1
    return jaro + Fraction(prefix, 10) * (1 - jaro)
