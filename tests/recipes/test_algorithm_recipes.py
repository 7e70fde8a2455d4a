"""Every packaged algorithm: it loads, alone and over a run; says only what it changes; and says where it is from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.algorithms import algorithms, explore, head, load_algorithm
from posttrain.config.load import load, load_recipe
from posttrain.config.parents import layers_of, recipes_folder
from posttrain.config.standins import OF_ALGORITHM
from posttrain.config.tree import DEFAULT, read, tree_of

NAMES = sorted(algorithms())
# What a run has to say to an algorithm whose numbers are those of long responses.
LENGTHS = {"dapo": "shaping: {overlong: {longest: 64, buffer: 16}}\n"}
CRITICS = {"guide_ppo", "ppo", "vapo"}


def test_they_are_all_there() -> None:
    assert set(NAMES) >= {
        "cispo", "dapo", "dr_grpo", "grpo", "gspo", "gspo_token", "lite_ppo", "nft", "ppo", "reinforce_pp",
        "reinforce_pp_baseline", "rloo", "rover", "vapo", "aepo", "rapo", "lp_reg", "siren", "clip_cov", "kl_cov",
        "ghpo", "guide", "guide_ppo",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_alone_it_is_complete_but_for_model_task_and_rewards(name: str) -> None:
    recipe = load_algorithm(name)
    assert not recipe.runnable
    assert recipe.name == name
    assert not recipe.objective["policy"].off
    assert (recipe.critic is not None) == (name in CRITICS)


def over_quickstart(folder: Path, name: str, extra: str = "") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"extends: [quickstart.yaml, algorithms/{name}.yaml]\n{extra}", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_laid_over_a_run_it_changes_the_algorithm_and_nothing_else(name: str, tmp_path: Path) -> None:
    loaded = load_recipe(over_quickstart(tmp_path, name, LENGTHS.get(name, "")))
    alone, plain = explore(name), load_recipe("quickstart")
    for block in ("objective", "advantage", "strategy", "selects", "critic"):
        assert loaded.resolved[block] == alone.resolved[block], block
    assert set(loaded.resolved["shaping"]) == set(alone.resolved["shaping"])
    for block in ("model", "task", "reward", "learner", "engine", "sampling", "steps"):
        assert loaded.resolved[block] == plain.resolved[block], block
    assert loaded.recipe.runnable


def test_the_lengths_of_dapo_do_not_fit_a_short_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shaping\.overlong\.longest: .* would never act"):
        load_recipe(over_quickstart(tmp_path, "dapo"))


def test_one_algorithm_laid_over_another_is_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "mixed.yaml"
    path.write_text("extends: [algorithms/dapo.yaml, algorithms/cispo.yaml]\n", encoding="utf-8")
    recipe = load_algorithm(path)
    assert type(recipe.objective["policy"].term).__name__ == "CISPO"
    assert type(recipe.strategy).__name__ == "DynamicSampling"
    assert set(recipe.shaping) == {"overlong"}
    assert recipe.batch.samples == 16  # which both say nothing against


def leaves(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{at}.{key}".lstrip(".")).items()}
    return {at: value}


def parent_of(path: Path) -> dict[str, Any]:
    """The resolved recipe beneath a file; stand-ins for what no algorithm says."""
    folder, standins = recipes_folder(), tree_of(OF_ALGORITHM, DEFAULT)
    assert folder is not None
    extends = read(path).value["extends"].value
    return load(
        [standins, *layers_of(tree_of({"extends": extends}, "test"), path.parent)], tree_of({}, ""), path
    ).resolved


# Parts that are written whole, so that they stand over an algorithm that has none.
WHOLE = {"guide": "objective.ref_kl.", "dump": "objective.ref_kl."}


@pytest.mark.parametrize("name", [n for n in NAMES if n != "grpo"])
def test_it_says_nothing_that_its_parent_says_already(name: str) -> None:
    path = algorithms()[name]
    own, above = leaves(read(path).plain()), leaves(parent_of(path))
    changed = {at for at, value in own.items() if at.endswith(".use") and above.get(at) != value}
    fresh = {at.removesuffix(".use") for at in changed}  # a component that is new may be spelled out
    for at, value in own.items():
        if any(at.startswith(f"{block}.") for block in fresh) or at.startswith(WHOLE.get(name, " ")):
            continue
        assert at not in above or above[at] != value, f"{at}: {value} is what {name}'s parent says"
    assert own.pop("extends").endswith(".yaml")


@pytest.mark.parametrize("name", NAMES)
def test_its_head_names_the_paper_the_formula_and_what_is_reconstructed(name: str) -> None:
    what = head(algorithms()[name])
    assert re.fullmatch(r"\d{4}\.\d{5}", what.arxiv)
    assert len(what.paper) > 20
    assert what.title
    formula = [line for line in what.body if line.startswith("    ")]
    assert formula
    assert max(map(len, formula)) <= 80  # stays whole in a narrow terminal
    said = [line for line in what.body if line.startswith(("Reconstructed: ", "Nothing here is reconstructed."))]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "weight", "key"),
    [
        ("grpo", "objective.ref_kl.weight", "ref_kl"),
        ("reinforce_pp_baseline", "objective.ref_kl.weight", "ref_kl"),
    ],
)
def test_the_penalty_is_off_until_it_has_a_weight(name: str, weight: str, key: str) -> None:
    assert load_algorithm(name).objective[key].off
    assert not load_algorithm(name, {weight: 0.01}).objective[key].off


@pytest.mark.parametrize("name", ["rloo", "reinforce_pp", "ppo"])
def test_the_penalty_in_the_reward_is_off_until_it_has_a_coefficient(name: str) -> None:
    assert not load_algorithm(name).shaping["kl"].needs
    assert load_algorithm(name, {"shaping.kl.coef": 0.03}).shaping["kl"].needs == {"old_logp", "ref_logp"}
