from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from posttrain.collect.hints import HintReroll, is_hard
from posttrain.config.load import load_recipe
from posttrain.data.hinted import SENTENCE, hinted, prefix
from posttrain.data.types import Group, Origin, Prompt, Rollout, Score
from posttrain.rollout.engine import Interrupted
from tests.row_samples import prompt, row

TEN = "abcdefghij"


# ---- text ----
def test_shares_are_in_characters_and_round_a_half_to_even() -> None:
    assert [prefix(TEN, f) for f in (0.25, 0.5, 0.75, 1.0)] == ["ab", "abcde", "abcdefgh", TEN]
    assert prefix("abcdefghijklmn", 0.25) == "abcd"  # 3.5
    assert prefix("a", 0.25) == ""


def test_a_hinted_prompt_differs_in_its_last_user_message_and_says_so() -> None:
    messages = tuple(
        {"role": r, "content": c} for r, c in [("system", "s"), ("user", "1"), ("user", "2"), ("assistant", "<")]
    )
    p = prompt("p", messages=messages, columns={"a": 1}, level=3)
    got = hinted(p, "abc")
    assert got == replace(
        p, messages=(*messages[:2], {"role": "user", "content": f"2\n{SENTENCE}\nabc"}, messages[3]), hint="abc"
    )
    assert p.hint == ""


# ---- groups ----
class Policy:
    """Solves a problem from the share of its solution on that `needs` says by id, 2 for never; keeps what it was asked."""

    def __init__(self, needs: dict[str, float], room: int = 1000, interrupted_at: int = -1) -> None:
        self.needs, self.room, self.interrupted_at = needs, room, interrupted_at
        self.asked: list[list[tuple[str, int]]] = []
        self.settings: list[dict[str, Any]] = []

    def __call__(self, prompts: Sequence[Prompt], **settings: Any) -> list[Group]:
        if len(self.asked) == self.interrupted_at:
            raise Interrupted
        self.asked.append([(p.id, len(p.hint)) for p in prompts])
        self.settings.append(settings)
        return [self._group(p) for p in prompts]

    def _group(self, p: Prompt) -> Group:
        right = [len(p.hint) >= self.needs[p.id] * len(TEN), False, False]
        scores = [Score(value=r + 0.5, correct=r) for r in right]  # half a point for the format
        return Group(prompt=p, rollouts=tuple(row(score=s, seed=len(self.asked)) for s in scores))

    def fits(self, p: Prompt) -> bool:
        return len(p.hint) <= self.room


def drawing(*names: str, **fields: Any) -> Callable[[int], list[Prompt]]:
    given = {"solution": TEN, "answer": "42", **fields}
    prompts = iter([prompt(name, f"{name}?", **given) for name in names])
    return lambda n: [next(prompts) for _ in range(n)]


def collect(policy: Policy, strategy: HintReroll | None = None, step: int = 20, **fields: Any) -> list[Group]:
    names = list(policy.needs)
    return (strategy or HintReroll()).collect(drawing(*names, **fields), len(names), policy, step)


def scored(*scores: Score | None) -> Group:
    return Group(prompt=prompt(), rollouts=tuple(row(score=s) for s in scores))


def test_a_group_is_hard_by_verdict_and_not_by_reward() -> None:
    wrong, styled, right = Score(value=0.0), Score(value=0.5), Score(value=0.0, correct=True)
    none = Score(value=None, status="timeout")
    assert is_hard(scored(styled, styled, wrong, wrong))
    assert not is_hard(scored(wrong, right, wrong, wrong))
    assert is_hard(scored(wrong, none))
    assert not is_hard(scored(none, none, None))  # nobody knows


def test_a_policy_that_needs_half_the_solution_is_called_three_times() -> None:
    policy, strategy = Policy({"easy": 0, "half": 0.5}), HintReroll()
    easy, half = collect(policy, strategy)
    assert policy.asked == [[("easy", 0), ("half", 0)], [("half", 2)], [("half", 5)]]
    assert policy.settings == [{}, {}, {}]  # the policy's own rows, trained under the prompt that sampled them
    assert (easy.prompt.hint, half.prompt.hint) == ("", "abcde")
    assert half.prompt.messages[-1]["content"] == f"half?\n{SENTENCE}\nabcde"
    assert len(half.rollouts) == 3  # the whole group
    assert strategy.report == {
        "hints/hard": 0.5, "hints/unsolved": 0.0, "hints/without": 0.0, "hints/too_long": 0.0,
        "hints/leaked": 0.0,
        "hints/stage_1": 0.5, "hints/solved_1": 0.0, "hints/stage_2": 0.5, "hints/solved_2": 0.5,
        "hints/stage_3": 0.0, "hints/solved_3": 0.0,
    }  # fmt: skip


def test_solved_groups_are_the_very_same_objects() -> None:
    first: list[Group] = []

    class Remembering(Policy):
        def __call__(self, prompts: Sequence[Prompt], **settings: Any) -> list[Group]:
            groups = super().__call__(prompts, **settings)
            first.extend(groups)
            return groups

    got = collect(Remembering({"a": 0, "b": 2, "c": 0}))
    assert got[0] is first[0]
    assert got[2] is first[2]
    assert got[1] is first[-1]


def test_each_stage_asks_for_those_that_are_still_unsolved() -> None:
    policy = Policy({"a": 0.2, "b": 0.75, "c": 2, "d": 0})
    groups = collect(policy)
    assert policy.asked[1:] == [[("a", 2), ("b", 2), ("c", 2)], [("b", 5), ("c", 5)], [("b", 8), ("c", 8)]]
    assert [len(g.prompt.hint) for g in groups] == [2, 8, 8, 0]
    assert [g.solved() for g in groups] == [True, True, False, True]  # the last group of c is kept, all wrong


def test_nothing_hard_is_one_call() -> None:
    policy = Policy({"a": 0, "b": 0})
    collect(policy)
    assert len(policy.asked) == 1


@pytest.mark.parametrize(("step", "calls"), [(0, 1), (19, 1), (20, 4)])
def test_a_cold_start_has_no_hints_and_says_how_many_it_would_have(step: int, calls: int) -> None:
    policy, strategy = Policy({"a": 2}), HintReroll()
    collect(policy, strategy, step=step)
    assert len(policy.asked) == calls
    assert strategy.report["hints/hard"] == strategy.report["hints/unsolved"] == 1
    assert strategy.report["hints/stage_1"] == float(calls > 1)


def test_a_problem_without_a_solution_is_left_alone() -> None:
    policy, strategy = Policy({"a": 0.5}), HintReroll()
    (only,) = collect(policy, strategy, solution="")
    assert (len(policy.asked), only.prompt.hint, strategy.report["hints/without"]) == (1, "", 1.0)


def test_a_hint_that_holds_the_answer_in_another_form_is_left_out_and_reported() -> None:
    for solution, leaked, kept in (
        ("so half of it, 0.5 of all, and so on", 1.0, [9]),
        ("so half of it, all in all, is then ", 0.0, [9, 18, 26]),
    ):
        policy, strategy = Policy({"a": 9, "b": 9}), HintReroll()
        groups = collect(policy, strategy, solution=solution, answer="\\frac{1}{2}")
        assert strategy.report["hints/leaked"] == leaked
        assert policy.asked[1:] == [[("a", n), ("b", n)] for n in kept]
        assert [len(g.prompt.hint) for g in groups] == [kept[-1]] * 2


def test_a_cut_that_makes_the_answer_is_passed_over_for_the_next_stage() -> None:
    """The first stage would end in the middle of a number, and what is left of it is the answer."""
    policy, strategy = Policy({"a": 2}), HintReroll(fractions=[0.5, 1.0])
    collect(policy, strategy, solution="take 12345 off", answer="12")
    assert [n for ((_, n),) in policy.asked] == [0, 14]
    assert (strategy.report["hints/leaked"], strategy.report["hints/stage_1"]) == (1.0, 0.0)


def test_blanks_are_no_hint() -> None:
    policy = Policy({"a": 2})
    collect(policy, solution="  abcdef")
    assert [n for ((_, n),) in policy.asked[1:]] == [4, 6]


def test_an_empty_share_is_no_hint() -> None:
    policy = Policy({"a": 2})
    collect(policy, solution="abc")  # shares of 1, 2 and 2 characters
    assert [n for ((_, n),) in policy.asked] == [0, 1, 2, 2]
    policy = Policy({"a": 2})
    collect(policy, solution="a")  # of 0, 0 and 1
    assert [n for ((_, n),) in policy.asked] == [0, 1]


@pytest.mark.parametrize(("room", "kept"), [(1, ""), (5, "abcde"), (2, "ab")])
def test_a_hint_that_leaves_no_room_is_not_used_and_counted(room: int, kept: str) -> None:
    policy, strategy = Policy({"a": 2, "b": 0}, room), HintReroll()
    group, _ = collect(policy, strategy)
    assert group.prompt.hint == kept  # the group of the stage before
    assert strategy.report["hints/too_long"] == 0.5
    assert [n for ((_, n),) in policy.asked[1:]] == [n for n in (2, 5, 8) if n <= room]


def test_under_the_plain_prompt_hinted_rows_are_groups_beside_the_failed_ones() -> None:
    policy = Policy({"a": 0.5, "b": 0, "c": 2})
    strategy = HintReroll(fractions=[0.5], train_under="plain", start=0)
    groups = collect(policy, strategy, step=0)
    assert [(g.prompt.id, g.prompt.hint) for g in groups] == [
        ("a", ""),
        ("a", "abcde"),
        ("b", ""),
        ("c", ""),
        ("c", "abcde"),
    ]
    assert policy.settings[1]["origin"] == Origin.HINTED
    assert [(p.id, p.hint) for p in policy.settings[1]["train_under"]] == [("a", ""), ("c", "")]
    assert strategy.origins == {Origin.HINTED}
    assert not HintReroll().origins


@pytest.mark.parametrize(
    ("advice", "without", "leaked"),
    [
        ({"other": "x"}, 1.0, 0.0),
        ({"advice": ""}, 1.0, 0.0),
        ({"advice": "Add the tens first, then: \\boxed{42}"}, 0.0, 1.0),
        ({"advice": "Consider 42 cases and add up."}, 0.0, 1.0),
        ({"advice": "It is the same as 42.0 tenths."}, 0.0, 1.0),
    ],
    ids=str,
)
def test_a_written_hint_that_holds_the_answer_is_not_given(
    advice: dict[str, str], without: float, leaked: float
) -> None:
    """Not even its beginning: half a sentence is no advice."""
    policy, strategy = Policy({"a": 1}), HintReroll(fractions=[1.0], column="advice")
    (only,) = collect(policy, strategy, columns=advice)
    assert (len(policy.asked), only.prompt.hint) == (1, "")
    assert (strategy.report["hints/without"], strategy.report["hints/leaked"]) == (without, leaked)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, SENTENCE),
        ({"column": "advice"}, "Hint:"),
        ({"column": "advice", "sentence": "Mind this."}, "Mind this."),
        ({"sentence": "It begins so:"}, "It begins so:"),
    ],
    ids=str,
)
def test_what_announces_a_hint(settings: dict[str, str], sentence: str) -> None:
    strategy = HintReroll(fractions=[1.0], **settings)
    (only,) = collect(Policy({"a": 1}), strategy, columns={"advice": TEN})
    assert only.prompt.messages[-1]["content"] == f"a?\n{sentence}\n{TEN}"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_interruption_passes_through(at: int) -> None:
    with pytest.raises(Interrupted):
        collect(Policy({"a": 2}, interrupted_at=at))


def test_unjudged_answers_to_a_hint_do_not_count_as_solved() -> None:
    class Silent(Policy):
        def _group(self, p: Prompt) -> Group:
            if not p.hint:
                return super()._group(p)
            none: list[Rollout] = [row(score=Score(value=None, status="timeout"))]
            return Group(prompt=p, rollouts=tuple(none))

    policy = Silent({"a": 2})
    collect(policy)
    assert len(policy.asked) == 4


# ---- recipes ----
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["strategy={use: hint_reroll, fractions: [0.5, 0.25]}"], r"strategy\.fractions: .* Set \[0\.25, 0\.5\]"),
        (["strategy={use: hint_reroll, train_under: plain}"], r"strategy\.train_under: .* with the term guide"),
        (["strategy={use: hint_reroll, fractions: [1.5]}"], r"strategy\.fractions"),
        (
            ["strategy=hint_reroll", "task={use: dataset, path: x.jsonl}", "warmup=false"],
            r"strategy\.column: .* Name their column: task\.solution",
        ),
        (
            ["strategy={use: hint_reroll, column: hint}", "task={use: dataset, path: x.jsonl}", "warmup=false"],
            r"strategy\.column: .* Set task\.columns=\['hint'\]",
        ),
    ],
)
def test_what_does_not_go_together(settings: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_recipe("quickstart", settings)


def test_two_algorithms_of_hints_are_recipes() -> None:
    ghpo = load_recipe("debug/ghpo").recipe.strategy
    assert (ghpo.fractions, ghpo.train_under, ghpo.start) == ([0.25, 0.5, 0.75], "hinted", 0)
    guide = load_recipe("debug/guide").recipe
    assert (guide.strategy.train_under, guide.strategy.start) == ("plain", 0)
    assert guide.objective["policy"].rows == ("policy", "hinted")
