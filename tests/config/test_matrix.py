"""The table of what goes together: complete, asked of the recipe, readable and light."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from posttrain.cli import main
from posttrain.config.algorithms import algorithms, load_algorithm
from posttrain.config.errors import ConfigError
from posttrain.config.matrix import Matrix, matrix, refusals
from posttrain.config.matrix_table import NOTES, as_json, as_markdown, marks, print_matrix
from posttrain.config.problems import Problem
from posttrain.config.registries import ADVANTAGES, CURRICULA, GATES, MIXES, SELECTS, SHAPING, STRATEGIES, TERMS

HOOKS = {
    "strategy": STRATEGIES, "selects": SELECTS, "mixes": MIXES, "curriculum": CURRICULA, "advantage": ADVANTAGES,
    "shaping": SHAPING, "gates": GATES,
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Matrix:
    return matrix()


def cell(found: Matrix, row: str, hook: str) -> tuple[str, ...] | None:
    i = [r.label for r in found.rows].index(row)
    return found.cells[i][[h.label for h in found.hooks].index(hook)]


def test_everything_that_is_registered_is_in_it(found: Matrix) -> None:
    for kind, registry in HOOKS.items():
        assert {h.spec["use"] for h in found.hooks if h.kind == kind} == set(registry.names())
    assert [r.label for r in found.rows if r.kind == "algorithm"] == list(algorithms())
    assert [r.label for r in found.rows if r.kind == "term"] == TERMS.names()
    assert [r.hook for r in found.rows if r.hook] == list(found.hooks)
    assert {len(line) for line in found.cells} == {len(found.hooks)}


def test_what_an_algorithm_brings_goes_with_itself(found: Matrix) -> None:
    """And a mixture with nothing new in it is the recipe itself."""
    for row, hook in (("ghpo", "hint_reroll"), ("guide", "hint_reroll (hinted rows)"), ("d3s", "max_variance"),
                      ("chord_mu", "expert_mix"), ("aepo", "entropy_control"), ("dump", "ucb"), ("ppo", "gae")):  # fmt: skip
        assert cell(found, row, hook) == ()
    assert not any(refusals(row.tree) for row in found.rows if row.kind == "algorithm")


def test_the_five_guidance_and_data_algorithms_go_with_every_surrogate(found: Matrix) -> None:
    """But where there is a reason."""
    mine = ("hint_reroll", "hint_reroll (hinted rows)", "max_variance", "expert_mix", "ucb", "informative_tokens")
    refused = {(r.label, h) for r in found.rows if r.kind == "algorithm" for h in mine if cell(found, r.label, h)}
    assert refused == {("guide", "hint_reroll"), ("guide_ppo", "hint_reroll"), ("gspo", "informative_tokens")}


LAYERS = {
    "guide": "hint_reroll (hinted rows)", "d3s": "max_variance", "dump": "ucb", "chord_mu": "expert_mix",
    "chord_phi": "expert_mix",
}  # fmt: skip
COV = ("clip_cov", "clip_cov_official", "kl_cov", "kl_cov_official")
OWN_TERM = ("cispo", "lp_reg", "lp_reg_official", "nft", "rloo", "rover")
# What is said of (the lower, the upper), where the upper one sets what the lower one needs.
REFUSED = {
    "nothing makes them": [("guide", x) for x in ("dapo", "ghpo", *COV)],
    "sampled under another prompt": [("guide", x) for x in OWN_TERM],
    "loss term 'guide' has no such setting": [
        ("guide", x) for x in ("gspo", "gspo_token", "aepo_official", "siren_official")
    ],
    "Set reduce: seq_mean_token_mean": [
        pair for x in ("gspo", "gspo_token") for y in ("d3s", "chord_mu", "chord_phi") for pair in ((x, y), (y, x))
    ],
    "Set scope: step": [("d3s", "clip_cov_official")],
    "Set selects: [{use: mixed_groups": [("nft", "d3s")],
}


@pytest.mark.parametrize("layer", LAYERS)
def test_what_goes_may_be_laid_over_with_extends(found: Matrix, layer: str) -> None:
    """In both orders, but where the upper one takes away what the lower one needs."""
    refused = {}
    for name in algorithms():
        if name == layer or cell(found, name, LAYERS[layer]) != ():
            continue
        for pair in ((name, layer), (layer, name)):
            try:
                load_algorithm({"extends": [f"{x}.yaml" for x in pair]})
            except ConfigError as error:
                refused[pair] = str(error)
    expected = {pair: words for words, pairs in REFUSED.items() for pair in pairs if layer in pair}
    assert refused.keys() == expected.keys()
    assert all(expected[pair] in said for pair, said in refused.items())


@pytest.mark.parametrize(
    ("row", "hook", "words"),
    [
        ("guide", "plain", "rows hinted are named, and nothing makes them"),
        ("gspo", "informative_tokens", "sequence_token"),
        ("ppo", "leave_one_out", "does not read its values"),
        ("nft", "overlong", "nft reads the verdicts alone"),
        ("nft", "gae", "nft reads the verdicts alone"),
        ("guide", "truncated_is", "compares with the engine"),
        ("d3s", "truncated_is", "scope: step"),
        ("clipped_value", "group", "there is none"),
        ("nll", "ucb", "also the wrong ones"),
    ],
)
def test_a_refusal_has_its_reason(found: Matrix, row: str, hook: str, words: str) -> None:
    assert words in " ".join(cell(found, row, hook) or ())


def test_a_hooks_rows_have_a_part_of_their_own(found: Matrix) -> None:
    """As the notes below the table say: other parts keep their weight and their denominator."""
    by_label = {hook.label: hook for hook in found.hooks}
    under = next(row.tree for row in found.rows if row.label == "cispo")
    for label, rows in (("expert_mix", ["expert"]), ("hint_reroll (hinted rows)", ["hinted"])):
        objective = by_label[label].over(under)["objective"]
        assert objective["policy"] == under["objective"]["policy"]
        assert [part["rows"] for name, part in objective.items() if name not in under["objective"]] == [rows]


def test_there_is_room_for_one_of_a_kind(found: Matrix) -> None:
    assert cell(found, "gae", "group") is None
    assert cell(found, "max_variance", "max_variance") is None
    assert cell(found, "max_variance", "mixed_groups") == ()


def test_a_new_component_is_in_it_with_what_it_says_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Shy:
        def conflicts(self, at: str, recipe: Any) -> Iterator[Problem]:
            if recipe.shaping:
                yield Problem((at,), "shy: not with shaping. Remove it.")

        def __call__(self, groups: Any, step: int) -> Any: ...

    SELECTS.names()
    monkeypatch.setitem(SELECTS.classes, "shy", Shy)
    with_it = matrix()
    assert cell(with_it, "grpo", "shy") == ()
    assert cell(with_it, "dapo", "shy") == ("selects.1: shy: not with shaping. Remove it.",)


# ---- what the checks behind it refuse ----
@pytest.mark.parametrize("term", ["ppo_clip", "reinforce", "cispo", "lp_reg", "rover", "nft"])
@pytest.mark.parametrize(("rows", "words"), [("hinted", "sampled under another prompt"), ("expert", "no group")])
def test_surrogates_are_for_the_policys_own_rows(term: str, rows: str, words: str) -> None:
    makes = {
        "hinted": {"strategy": {"use": "hint_reroll", "train_under": "plain"}},
        "expert": {"mixes.e": "expert_mix"},
    }
    options = {
        **makes[rows], "selects": ["mixed_groups"],
        "objective.policy": {"term": term, "rows": ["policy", rows]}, "batch.updates": 2,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=words):
        load_algorithm({"objective": {"policy": {"term": term}}}, options)


def test_hinted_rows_may_be_compared_with_the_engine() -> None:
    options = {
        "strategy": {"use": "hint_reroll", "train_under": "plain"},
        "objective.policy.term.behaviour": "sampler",
        "objective.policy.rows": ["policy", "hinted"],
    }
    load_algorithm("grpo", options)


@pytest.mark.parametrize("gate", ["informative_tokens", "high_entropy", "peak_entropy", "top_cov", "clip_cov"])
def test_a_choice_of_tokens_is_no_choice_where_the_ratio_is_the_responses(gate: str) -> None:
    with pytest.raises(ConfigError, match=f"{gate} chooses tokens, and with level: sequence"):
        load_algorithm("gspo", {"objective.policy.gates": [gate]})
    load_algorithm("gspo_token", {"objective.policy.gates": [gate]})


def test_a_bandit_of_one_arm_is_refused() -> None:
    task = {"use": "dataset", "path": "x.jsonl"}
    run = {
        "task": task,
        "model": {"use": "tiny"},
        "reward": {"correct": "math"},
        "learner.tokens_per_micro_batch": 99999,
    }
    for arms, columns, refused in (
        ("source", {}, "task.source, or set curriculum.arms=level and task.level"),
        ("level", {}, r"task.level\."),
        ("level", {"level": "level"}, ""),
        ("source", {"source": "topic"}, ""),
    ):
        options = {**run, "task": {**task, **columns}, "curriculum.arms": arms}
        if refused:
            with pytest.raises(ConfigError, match=refused):
                load_algorithm("dump", options)
        else:
            load_algorithm("dump", options)


# ---- as text ----
@pytest.mark.parametrize("width", [80, 120])
def test_every_cell_is_shown(found: Matrix, width: int) -> None:
    out = io.StringIO()
    print_matrix(found, Console(file=out, width=width))
    text = out.getvalue()
    assert "…" not in text
    table = text.split("\nalgorithms")[1].split("\na  ")[0].splitlines()
    lines = {line[:27].strip(): "".join(line.split()[1:]) for line in table if line.startswith("  ")}
    assert lines["grpo"] == "+" * len(found.hooks)
    assert all(" ".join(note.split()) in " ".join(text.split()) for note in NOTES)
    assert all(row.label[:25].strip() in lines for row in found.rows)
    for cells, letter in marks(found).items():
        assert f"\n{letter}  " in text
        assert all(" ".join(reason.split())[:40] in " ".join(text.split()) for reason in cells)


def test_as_markdown_and_as_objects(found: Matrix) -> None:
    lines = as_markdown(found).splitlines()
    assert set(NOTES) <= set(lines)
    for kind in HOOKS:
        start = lines.index(f"### {kind}")
        width = lines[start + 2].count("|")
        assert all(line.count("|") == width for line in lines[start + 2 : start + 4 + len(found.rows)])
    cells = json.loads(as_json(found))
    assert len(cells) == sum(x is not None for line in found.cells for x in line)
    assert all(c["goes"] == (not c["reasons"]) for c in cells)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "matrix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["row_kind"] == "algorithm"
    assert main(["algorithms", "matrix"]) == 0
    assert "hooks, in GRPO" in capsys.readouterr().out
    assert main(["algorithms", "matrix", "grpo"]) == 2
    assert "takes no name" in capsys.readouterr().err
    assert main(["algorithms", "list", "--json"]) == 2
    assert "algorithms matrix" in capsys.readouterr().err


def test_it_imports_no_torch() -> None:
    code = (
        "import sys; from posttrain.cli import main; main(['algorithms', 'matrix', '--json']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
