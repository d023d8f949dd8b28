"""Two sweeps, row by row; and published curves."""

from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from tests.report.simulate import configuration, write_run, write_sweep
from tests.report.test_rank import build
from trash_seg.report.against import compare
from trash_seg.report.collect import ReportError
from trash_seg.report.reference import BUNDLED, read_reference


def test_rows_are_matched_and_judged(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", means=[0.40, 0.42, 0.44, 0.50], seed=1)
    write_sweep(tmp_path / "b", means=[0.40, 0.47, 0.39], seed=2)
    result = compare(build(tmp_path / "a"), build(tmp_path / "b"), sigma=None)
    verdicts = {row.this.config: row.verdict for row in result.rows}
    assert verdicts == {"00000001": "same", "00000002": "lower", "00000003": "higher"}
    assert [row.config for row in result.only_this] == ["00000004"]
    assert result.only_other == []
    assert result.noise.df == 7 * 2 - 2  # the configuration that is in one sweep only does not take part


def test_other_settings_match_by_name_and_other_data_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "a", encoder="x", hash="00000001", miou=0.4)
    write_run(tmp_path / "a", encoder="y", hash="00000002", miou=0.4)
    config = configuration(encoder="x", decoder="Unet", batch_size=16)
    write_run(tmp_path / "b", encoder="x", hash="000000a1", miou=0.6, config=config)
    other_data = {"state": "done", "data": {"fingerprint": "0ther"}}
    write_run(tmp_path / "b", encoder="y", hash="000000a2", miou=0.6, status=other_data)
    result = compare(build(tmp_path / "a"), build(tmp_path / "b"), sigma=None)
    found = {row.this.encoder: (row.verdict, row.differs) for row in result.rows}
    assert found == {"x": ("lower", []), "y": ("not comparable", ["data"])}


def test_sweeps_without_a_common_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", encoder="x", hash="00000001")
    write_run(tmp_path / "b", encoder="y", hash="00000002")
    result = compare(build(tmp_path / "a"), build(tmp_path / "b"), sigma=None)
    assert (result.rows, len(result.only_this), len(result.only_other)) == ([], 1, 1)


def test_p_values_are_students_adjusted_by_holm(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", means=[0.40, 0.41, 0.40], seed=1)
    write_sweep(tmp_path / "b", means=[0.40, 0.40, 0.42], seed=2, num_seeds=2)
    result = compare(build(tmp_path / "a"), build(tmp_path / "b"), sigma=None)
    scores = [row.scores() for pair in result.rows for row in (pair.this, pair.other)]
    groups = np.repeat(np.arange(6), [len(s) for s in scores])
    fit = sm.OLS(np.concatenate(scores), np.eye(6)[groups]).fit()
    tests = [fit.t_test(np.eye(6)[2 * i] - np.eye(6)[2 * i + 1]) for i in range(3)]
    plain = [float(test.pvalue) for test in tests]
    assert [row.p for row in result.rows] == pytest.approx(multipletests(plain, method="holm")[1])
    intervals = [test.conf_int(0.05)[0] for test in tests]
    assert np.allclose([(row.low, row.high) for row in result.rows], intervals)


def test_the_bundled_log_is_read_and_flagged_as_what_it_is() -> None:
    published, note = read_reference("log210501")
    assert len(published) == 34
    assert published[0].best_miou == max(item.best_miou for item in published)
    assert published[-1].curve
    assert "UNKNOWN trained as background" in note
    without_curve = [item for item in published if not item.curve]
    assert [item.encoder for item in without_curve] == ["timm-regnetx_080"]
    assert all(item.best_miou == pytest.approx(max(item.curve)) for item in published if item.curve)


def test_ones_own_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("encoder,decoder,weights,best_miou,epoch1,epoch2,epoch10\na,Unet,none,0.5,0.1,0.2,0.5\n")
    (item,), note = read_reference(str(path))
    assert (item.curve, item.seconds, item.last_miou) == ([0.1, 0.2, 0.5], None, None)
    assert note not in BUNDLED.values()


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file"), ("a,b\n1,2\n", "KeyError: 'encoder'")])
def test_a_file_that_cannot_be_used_is_said(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ReportError, match=problem):
        read_reference(str(path))
