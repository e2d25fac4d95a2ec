import dataclasses
import json

import numpy as np
import pytest
from stabfw.errors import DataError
from stabfw.report.serialise import dump_results, load_results, save_results


def test_round_trip_is_exact(drawn, tmp_path):
    path = tmp_path / "deep" / "results.json"
    save_results(drawn.results, path)
    assert load_results(path) == drawn.results
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_equal_results_give_equal_text(drawn, tmp_path):
    save_results(drawn.results, tmp_path / "r.json")
    assert dump_results(load_results(tmp_path / "r.json")) == dump_results(drawn.results)


def test_facts_that_are_not_json_become_plain(drawn, tmp_path):
    cell = dataclasses.replace(
        drawn.results.cells[0], facts={"rate": np.float64(2.5), "n": np.int64(3), "where": tmp_path}
    )
    save_results(dataclasses.replace(drawn.results, cells=(cell,)), tmp_path / "r.json")
    facts = load_results(tmp_path / "r.json").cells[0].facts
    assert facts == {"rate": 2.5, "n": 3, "where": str(tmp_path)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "stabfw run"),
        ("{", "not JSON"),
        ("[]", "not a results file"),
        ('{"other": 1}', "not a results file"),
        ('{"stabfw_results": 99, "results": {}}', "schema 99"),
        ('{"stabfw_results": 6, "results": {"name": "x"}}', "lacks"),
    ],
)
def test_foreign_files_are_refused_by_name(tmp_path, content, says):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=says) as caught:
        load_results(path)
    assert str(path) in str(caught.value)


def test_a_wrong_type_is_found_where_it_is(drawn, tmp_path):
    path = tmp_path / "results.json"
    document = json.loads(dump_results(drawn.results))
    document["results"]["comparisons"][0]["counts"]["n_ci"] = "many"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"comparisons\[0\]\.counts\.n_ci is not of type int"):
        load_results(path)
