from __future__ import annotations

from collections import Counter

from polylens.data.subtitles.plans import Planner
from polylens.data.subtitles.sentences import Sentence
from polylens.data.subtitles.settings import Colours, SubtitleSettings

SENTENCES = [Sentence(str(number), (number, 7)) for number in range(5)]


def test_a_plan_follows_from_seed_and_number_alone():
    planner = Planner(SENTENCES, ["a", "b", "c"], SubtitleSettings(), seed=3)
    assert [planner.plan(number) for number in (5, 1, 5)] == [planner.plan(5), planner.plan(1), planner.plan(5)]
    assert planner.plan(1) != planner.plan(2)
    assert planner.plan(1) != Planner(SENTENCES, ["a", "b", "c"], SubtitleSettings(), seed=4).plan(1)
    assert all(planner.text(number) == planner.plan(number).text for number in range(50))


def test_the_first_plan_stays_what_it_is():
    """Pictures that were begun with one release go on with the next."""
    plan = Planner(SENTENCES, ["a", "b", "c"], SubtitleSettings(), seed=42).plan(2)
    assert (plan.text, plan.face, plan.backgrounds) == ("3", 3, ("b", "c", "a"))


def test_draws_fill_their_ranges():
    settings = SubtitleSettings(
        font_size=(0.1, 0.2),
        quality=(80, 82),
        stroke_chance=0.5,
        colours=(Colours((250, 250, 250), (255, 255, 255), 3), Colours((0, 0, 0), (0, 0, 0))),
    )
    plans = [Planner(SENTENCES, ["a", "b"], settings, 0).plan(number) for number in range(2000)]
    sizes = [plan.font_size for plan in plans]
    assert 0.1 <= min(sizes) < 0.101
    assert 0.199 < max(sizes) <= 0.2
    assert {plan.quality for plan in plans} == {80, 81, 82}
    assert {plan.text for plan in plans} == {"0", "1", "2", "3", "4"}
    assert {plan.face for plan in plans if plan.text == "2"} == {2, 7}
    black = Counter(plan.colour == (0, 0, 0) for plan in plans)[True]
    assert 0.22 < black / 2000 < 0.28
    assert {channel for plan in plans for channel in plan.colour} == {0, *range(250, 256)}
    assert 0.46 < sum(plan.always_stroke for plan in plans) / 2000 < 0.54
