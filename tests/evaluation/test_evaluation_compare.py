"""`posttrain eval compare`: paired differences, flips, and what cannot be compared."""

from __future__ import annotations

import json

import pytest
from evaluation_folders import ENVIRONMENT, PROTOCOL, drawn, question, sample, write_folder
from test_evaluation_page import HOSTILE, Page

from posttrain.cli import main
from posttrain.config.errors import ConfigError
from posttrain.evaluation.compare import run
from posttrain.evaluation.paired import compare
from posttrain.evaluation.spread import paired_difference


def one(folder, verdicts, model="m", bench="q", **more):
    """A folder of one model: for each question its verdicts."""
    rows = [sample(f"{bench}/{n}", s, right) for n, of in enumerate(verdicts) for s, right in enumerate(of)]
    return str(write_folder(folder, {model: {bench: rows}}, **more))


def test_the_difference_is_b_minus_a_and_paired(tmp_path):
    a, b = [[0, 0], [1, 0], [1, 1], [1, 1]], [[1, 1], [1, 1], [1, 1], [0, 0]]
    (found,) = compare(one(tmp_path / "a", a, "old"), one(tmp_path / "b", b, "new")).benchmarks
    assert (found.a, found.b) == (0.625, 0.75)
    assert found.difference == paired_difference(b, a, "both")
    assert [(flip.question, flip.gained) for flip in found.flips] == [("q/0", True), ("q/1", True), ("q/3", False)]
    assert found.left_out == []


def test_the_command_prints_and_writes_a_page(tmp_path, capsys):
    a, b = one(tmp_path / "a", [[0], [1], [0]], "old"), one(tmp_path / "b", [[1], [1], [0]], "new")
    out = tmp_path / "both.html"
    assert main(["eval", "compare", a, b, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "33.3%" in printed
    assert "+33.3 pts" in printed
    assert "+ q/0: A 0 of 1 right, B 1 of 1" in printed
    page = Page(out)
    assert page.plots == 2  # the difference, the heat map
    assert page.completions["models"] == ["old", "new"]
    assert page.completions["marked"] == [[0]]
    assert "1 question flipped: 1 to right, 0 to wrong" in page.text


def test_two_models_of_one_folder(tmp_path):
    of = {key: {"q": drawn("q", 5, 2, skill)} for key, skill in (("a", 0.2), ("b", 0.9))}
    folder = str(write_folder(tmp_path / "e", of))
    assert run(f"{folder}:a", f"{folder}:b") == 0
    assert (tmp_path / "e-a-against-e-b.html").is_file()
    with pytest.raises(ConfigError, match=r"results of 2 models\. Name one: .*:a, .*:b"):
        compare(folder, folder)
    with pytest.raises(ConfigError, match="same model of the same evaluation"):
        compare(f"{folder}:a", f"{folder}:a")
    with pytest.raises(ConfigError, match="no results of a model 'c', but of a, b"):
        compare(f"{folder}:a", f"{folder}:c")


def test_other_questions_under_the_same_ids_are_refused(tmp_path):
    other = {"q": [question("q/0"), question("q/1", gold="17")]}
    a, b = one(tmp_path / "a", [[0], [1]]), one(tmp_path / "b", [[0], [1]], questions=other)
    with pytest.raises(ConfigError, match=r"1 of its questions .* the first 'q/1'"):
        compare(a, b)


def test_what_is_on_one_side_only_is_left_out_and_named(tmp_path, capsys):
    a, b = one(tmp_path / "a", [[0], [1], [1]]), one(tmp_path / "b", [[1], [1]])
    assert run(a, b) == 0
    assert "1 question of m in" in capsys.readouterr().out.replace("\n", " ")
    (found,) = compare(a, b).benchmarks
    assert list(found.questions) == ["q/0", "q/1"]
    assert len(found.left_out) == 1


def test_a_question_without_a_verdict_is_left_out(tmp_path):
    a = write_folder(tmp_path / "a", {"m": {"q": [sample(f"q/{n}", 0, True) for n in range(3)]}})
    rows = [sample("q/0", 0, True), sample("q/1", 0, False), sample("q/2", 0, False, status="timeout")]
    (found,) = compare(str(a), str(write_folder(tmp_path / "b", {"m": {"q": rows}}))).benchmarks
    assert list(found.questions) == ["q/0", "q/1"]
    assert found.left_out == ["1 question without a verdict on one side: left out"]


def test_nothing_in_common_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no benchmark in common: q on one side, r on the other"):
        compare(one(tmp_path / "a", [[1]]), one(tmp_path / "b", [[1]], bench="r"))
    rows = [sample("q/7", 0, True)]
    with pytest.raises(ConfigError, match="no question in common"):
        compare(one(tmp_path / "c", [[1]]), str(write_folder(tmp_path / "d", {"m": {"q": rows}})))


def test_other_protocols_are_named(tmp_path):
    protocol = {**PROTOCOL, "sampling": {"temperature": 0.6, "max_tokens": 64}}
    found = compare(one(tmp_path / "a", [[1], [0]]), one(tmp_path / "b", [[1], [0]], protocol=protocol))
    assert found.remarks == ["other settings: protocol.sampling.temperature: 0.0 -> 0.6"]


def test_whatever_else_decides_a_score_is_named_where_it_differs(tmp_path):
    verdicts = [[1], [0]]
    where = {**ENVIRONMENT, "hardware": {"processor": "another"}, "python": "3.12.1"}  # which is no matter
    a = one(tmp_path / "a", verdicts, context=4096, dtype="bfloat16", batch_invariant=True)
    same = one(tmp_path / "same", verdicts, context=4096, dtype="bfloat16", batch_invariant=True, environment=where)
    assert compare(a, same).remarks == []
    newer = {**ENVIRONMENT, "vllm": "0.26.0", "torch": "2.13.0", "math_verify": "0.8.0"}
    b = one(
        tmp_path / "b", verdicts, context=None, dtype="float32", batch_invariant=False, environment=newer, code="0ther"
    )
    assert sorted(compare(a, b).remarks) == [
        "other settings: batch_invariant: true -> false",
        "other settings: context: 4096 -> null",
        'other settings: dtype: "bfloat16" -> "float32"',
        'other settings: environment.math_verify: absent -> "0.8.0"',
        'other settings: environment.torch: absent -> "2.13.0"',
        'other settings: environment.vllm: "0.25.1" -> "0.26.0"',
        'other settings: grader.q.code: "c0de" -> "0ther"',
    ]


def test_what_is_not_to_be_relied_on_is_said_of_its_side(tmp_path, capsys):
    lost = [sample(f"q/{n}", s, False, status="timeout", detail="5 s") for n in range(2) for s in range(3)]
    rows = [*lost, *(sample(f"q/{n}", s, True) for n in range(2) for s in range(3, 10))]
    a = str(write_folder(tmp_path / "a", {"old": {"q": rows}}))
    few = [sample(f"q/{n}", s, True) for n in range(2) for s in range(50)]
    few[0] |= {"correct": False, "status": "timeout"}
    b = str(write_folder(tmp_path / "b", {"new": {"q": few}}))
    marked, noted = compare(a, b).remarks
    assert marked.startswith("old, q: not to be relied on. 6 of 20 samples have no verdict")
    assert noted == "new, q: 1 samples have no verdict and are left out"
    out = tmp_path / "page.html"
    assert main(["eval", "compare", a, b, "--out", str(out)]) == 0
    assert "6 of 20 samples have no verdict" in " ".join(capsys.readouterr().out.split())
    assert "6 of 20 samples have no verdict" in Page(out).text


def test_a_side_that_failed_half_way_is_named(tmp_path):
    b = one(tmp_path / "b", [[1], [0]], "new")
    path = tmp_path / "b" / "results.json"
    results = json.loads(path.read_text())
    results["models"]["new"]["failed"] = "out of memory"
    path.write_text(json.dumps(results))
    (said,) = compare(one(tmp_path / "a", [[1], [0]], "old"), b).remarks
    assert said == "new failed, and what is there of it may be a part: out of memory"


def test_a_single_question_with_a_single_sample_has_no_interval(tmp_path, capsys):
    a, b = one(tmp_path / "a", [[0]]), one(tmp_path / "b", [[1]])
    assert compare(a, b).benchmarks[0].difference is None
    assert run(a, b) == 0
    assert "+100.0 pts" in capsys.readouterr().out


def test_hostile_text_is_never_markup(tmp_path):
    rows = [sample("q/0", 0, False, completion=HOSTILE, extracted=HOSTILE), sample("q/1", 0, True)]
    asked = {"q": [question("q/0", problem=HOSTILE, gold=HOSTILE), question("q/1")]}
    a = write_folder(tmp_path / "a", {"m": {"q": rows}}, asked)
    b = write_folder(tmp_path / "b", {"m": {"q": [{**row, "correct": True} for row in rows]}}, asked)
    out = tmp_path / "page.html"
    assert run(str(a), str(b), out) == 0
    page = Page(out)
    assert "img" not in page.tags
    assert HOSTILE in page.text  # the gold of the flipped question
    assert HOSTILE not in page.source


def test_two_names_are_needed(capsys):
    assert main(["eval", "compare", "runs/eval/a"]) == 2
    assert "takes two" in capsys.readouterr().err


def test_results_of_another_shape_are_named(tmp_path):
    folder = one(tmp_path / "a", [[1]])
    (tmp_path / "a" / "results.json").write_text(json.dumps({"accuracy": 1}))
    with pytest.raises(ConfigError, match="names no models"):
        compare(folder, folder)
