"""Series of which all is aside are found by answers, which say so, though tiers cover the time."""

from __future__ import annotations

from tests.storage.test_bring_back_meanwhile import place as place
from tests.storage.test_bring_back_meanwhile import start, take
from tests.storage.test_retention import HOUR_MS, append
from tests.storage.test_retention_marks import DAY0, TIMES
from tsengine.model.matchers import Matcher, MatchOp


def test_a_tier_was_built_without_the_part(place):
    database = start(place)
    append(database, "only", TIMES)
    database.flush()
    take(database, database.state.parts[0].entry)
    database = start(place)
    append(database, "api", TIMES)
    database.build_tiers()
    assert database.state.tiers
    view = database.view()
    wanted = [Matcher("job", MatchOp.EQUAL, "only")]
    span = DAY0 - HOUR_MS + 1, DAY0
    refs = view.find(wanted, *span)
    assert len(refs) == 1
    assert view.missing_spans(HOUR_MS, refs, *span) + view.doubtful_spans(HOUR_MS, refs, *span)
    assert len(view.live(refs, *span)) == 0, "nothing of it is there"
    database.close()
