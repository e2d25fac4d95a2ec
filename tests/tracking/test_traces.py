import json

import pytest
from stabfw.report.layout import slug
from stabfw.tracking.publish import publish
from stabfw.tracking.traces import MOST_CHANGED, UNCHANGED_TOO

ROWS = MOST_CHANGED + UNCHANGED_TOO


@pytest.fixture
def traced(drawn, run_directory, published):
    return publish(drawn.results, run_directory, published.uri, "thumbnails", traces=2 * ROWS)


def traces_of(client, published, run_id):
    return client.search_traces(locations=[published.experiment_id], run_id=run_id, max_results=500)


def test_the_worst_stack_and_its_baseline_pair_up(drawn, run_directory, traced):
    from mlflow import MlflowClient

    client = MlflowClient(traced.uri)
    assert traced.traces
    assert traced.missing_traces == 0
    base, variant = (
        {t.info.request_preview: t for t in traces_of(client, traced, run_id)}
        for run_id in (traced.worst_base, traced.worst)
    )
    assert base.keys() == variant.keys()
    assert UNCHANGED_TOO < len(base) <= ROWS
    (rows,) = (r for c, r in drawn.rows.items() if traced.runs[slug(c)] == traced.worst)
    by_id = {row.instance_id: row for row in rows}
    for preview, trace in variant.items():
        row = by_id[preview[1:].split("]")[0]]
        assert trace.info.response_preview == (row.variant.answer or row.variant.text)
        said = {a.name: a.value for a in trace.info.assessments}
        assert said["correct"] == row.variant.correct
        assert said["change"] == row.kind
        assert said["gold"] == row.gold
        assert "image" in json.loads(trace.data.request)

    again = publish(drawn.results, run_directory, traced.uri, "thumbnails", traces=2 * ROWS)
    assert len(traces_of(client, again, traced.worst)) == len(variant)

    bare = publish(drawn.results, run_directory, traced.uri, "none", traces=2 * ROWS)
    sent = traces_of(client, bare, traced.worst)
    assert len(sent) == len(variant)
    assert all("image" not in json.loads(t.data.request) for t in sent)


def test_none_are_sent_when_none_are_wanted(published):
    assert not published.traces
